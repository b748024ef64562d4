"""What the comparisons with peers measured, printed as the tables of docs/parity.md."""

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

TABLES = {
    "same": ("network, peer", "images", "outputs", "gradients of an image"),
    "wrong": ("network", "what is wrong", "outputs"),
    "framing": ("network, peer", "images", "grey levels"),
}
PACKAGES = ("jax", "torch", "torchvision", "timm", "transformers", "open_clip_torch", "keras")


@pytest.fixture
def row(record_property):
    """Adds a row to a table: ``row("wrong", name, "epsilon 1e-3", outputs)``."""

    def add(table, *cells):
        assert len(cells) == len(TABLES[table])
        record_property(table, json.dumps(cells))

    return add


def pytest_terminal_summary(terminalreporter):
    """Of the tests that passed."""
    found = [one for test in terminalreporter.getreports("passed") for one in test.user_properties]
    for table, head in TABLES.items():
        rows = [json.loads(cells) for name, cells in found if name == table]
        if rows:
            terminalreporter.write_line("")
        for cells in (head, ["---"] * len(head), *sorted(rows)) if rows else ():
            terminalreporter.write_line(f"| {' | '.join(map(shown, cells))} |")
    if found:
        terminalreporter.write_line(f"\n{', '.join(versions())}")


def shown(cell):
    """Numbers with two digits; several sizes of images in a row."""
    if isinstance(cell, list):
        return ", ".join(f"{height}x{width}" for height, width in cell)
    return f"{cell:.2g}" if isinstance(cell, float) else cell or ""


def versions():
    """Of the packages that are here."""
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
