"""The page of a run: one HTML file with everything in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from siamjax.data.transforms import Size
from siamjax.files import write_text
from siamjax.training.run import Results, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[list[str], list[tuple[str, list[str]]]]
"""Columns, and for each row its name and its cells."""

# What the page's table shows already, or what is too long for it.
_NOT_LISTED = ("results", "by_category", "network", "trained_on")


def write_report(
    run: Run,
    results: Mapping[str, Mapping[str, float | None]],
    *,
    size: Size,
    table: Table | None = None,
    remark: str = "",
    figures: Sequence[tuple[str, "Figure"]] = (),
    facts: dict[str, Any] | None = None,
) -> Results:
    """End a run: write its manifest and its page, and print its table. Returns ``results``.

    ``results`` are measures by name, of the network and of the baselines; ``table`` is how they
    are shown (None: a column a measure). ``remark`` says what they are about, ``figures`` have
    headings, and ``facts`` go into the manifest: what only this experiment has, such as a
    threshold. ``size`` is that of the network's images.
    """
    from siamjax.report.figures import as_png

    written: Results = {name: dict(values) for name, values in results.items()}
    table = plain_table(written) if table is None else table
    manifest = run.write_manifest(size=size, results=written, facts=facts)
    listed = {name: value for name, value in manifest.items() if name not in _NOT_LISTED}
    write_page(
        run.folder / "report.html",
        title=f"{run.folder.name} on {manifest['data']}",
        protocol=manifest["protocol"],
        table=table,
        remark=remark,
        pictures=[(name, as_png(figure)) for name, figure in figures],
        manifest={
            **listed,
            "network": manifest["network"],
            "trained_on": f"{len(manifest['trained_on'])} identities",
        },
    )
    print(manifest["protocol"])
    print(text_table(*table))
    if remark:
        print(remark)
    print(f"report: {run.folder / 'report.html'}")
    return written


def plain_table(results: Results) -> Table:
    """Every measure that has a value somewhere, by its own name."""
    columns = list(dict.fromkeys(name for values in results.values() for name in values))
    rows = [(name, [_cell(values.get(key)) for key in columns]) for name, values in results.items()]
    return columns, rows


def _cell(value: float | None) -> str:
    if value is None:
        return "not measurable"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def text_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The table for a terminal."""
    lines = [["", *columns], *([name, *cells] for name, cells in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write_page(
    path: Path,
    *,
    title: str,
    protocol: str,
    table: Table,
    remark: str,
    pictures: Sequence[tuple[str, str]],
    manifest: dict[str, Any],
) -> None:
    """Write the page; ``images`` are headings and ``data:`` addresses."""
    columns, rows = table
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("siamjax.report", "."), autoescape=True, trim_blocks=False
    )
    flat = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in manifest.items()
    ]
    page = environment.get_template("page.html").render(
        title=title,
        protocol=protocol,
        columns=columns,
        rows=rows,
        remark=remark,
        pictures=pictures,
        manifest=flat,
    )
    write_text(path, page)
