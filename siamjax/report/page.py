"""The page of a run: one HTML file with everything in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from siamjax.files import write_text

_COLUMNS = {
    "auc": "AUC",
    "eer": "EER",
    "accuracy": "accuracy at threshold",
    "tar_at_far_0.1": "TAR at FAR 0.1",
    "tar_at_far_0.01": "0.01",
    "tar_at_far_0.001": "0.001",
    "tar_at_far_0.0001": "0.0001",
}


def result_table(
    results: dict[str, dict[str, float | None]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns and rows, as text, of summaries by name; what cannot be measured says so."""
    columns = dict(_COLUMNS)
    if any("fold_accuracy" in values for values in results.values()):
        columns["fold_accuracy"] = "k-fold accuracy (± standard error; standard deviation)"
    rows = []
    for name, values in results.items():
        cells = []
        for key in columns:
            value = values.get(key)
            cells.append("not measurable" if value is None else f"{value:.4f}")
            if key == "fold_accuracy" and value is not None:
                error, deviation = (
                    values["fold_standard_error"],
                    values["fold_standard_deviation"],
                )
                cells[-1] += f" ± {error:.4f}; {deviation:.4f}"
        rows.append((name, cells))
    return list(columns.values()), rows


_RANKING_COLUMNS = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "map": "mAP",
    "map_trapezoid": "mAP (trapezoid)",
    "minp": "mINP",
    "rank1_deviation": "rank-1, deviation over trials",
}


def ranking_table(
    results: dict[str, dict[str, float | None]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns and rows, as text, of rankings by name; what the protocol lacks is left out."""
    columns = {
        key: name
        for key, name in _RANKING_COLUMNS.items()
        if any(key in values for values in results.values())
    }
    rows = []
    for name, values in results.items():
        shown = [values.get(key) for key in columns]
        rows.append((name, ["gallery too small" if v is None else f"{v:.4f}" for v in shown]))
    return list(columns.values()), rows


_SEARCH_COLUMNS = {
    "queries": "queries",
    **{f"recall_at_{k}": f"recall@{k}" for k in (1, 3, 5, 10, 20)},
    "map_at_r": "MAP@R",
}


def search_table(
    results: dict[str, dict[str, float | None]],
    by_category: Mapping[str, dict[str, dict[str, float | None]]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns and rows, as text, of searches by name: all queries, then category by category."""
    rows = [(name, _search_cells(values)) for name, values in results.items()]
    categories = sorted({category for found in by_category.values() for category in found})
    for category in categories:
        rows += [
            (f"{category}: {name}", _search_cells(found[category]))
            for name, found in by_category.items()
        ]
    return list(_SEARCH_COLUMNS.values()), rows


def _search_cells(values: dict[str, float | None]) -> list[str]:
    shown = [values[key] for key in _SEARCH_COLUMNS]
    return [
        "gallery too small" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.4f}"
        for v in shown
    ]


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
    table: tuple[list[str], list[tuple[str, list[str]]]],
    remark: str,
    pictures: Sequence[tuple[str, str]],
    manifest: dict[str, Any],
) -> None:
    """Write the page; ``pictures`` are headings and ``data:`` addresses."""
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
