"""The page of a run: one HTML file with everything in it."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from siamjax.data.transforms import Size
from siamjax.files import write_text
from siamjax.training.run import Results, Run
from siamjax.training.writers import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from siamjax.report.figures import Panels

Table = tuple[list[str], list[tuple[str, list[str]]]]
"""Columns, and for each row its name and its cells, as text."""

# Facts that the page shows elsewhere, or that are too long for its list.
_NOT_LISTED = ("results", "by_category", "network", "trained_on")


def write_report(
    run: Run,
    results: Mapping[str, Mapping[str, float | None]],
    *,
    size: Size,
    table: Table | None = None,
    remark: str = "",
    panels: "Panels" = (),
    figures: Sequence[tuple[str, "Figure"]] = (),
    facts: dict[str, Any] | None = None,
) -> Results:
    """End a run: write its manifest and its page, and print its table. Returns ``results``.

    ``results`` are measures by name, of the network and of the baselines; ``table`` is how to
    show them (None: a column a measure). ``remark`` explains them. ``panels`` are the training
    curves to draw; the other ``figures`` have headings. ``facts`` are added to the manifest: what
    only this experiment has, such as a threshold. ``size`` is the image size of the network.
    """
    from siamjax.report.figures import as_png, training_curves

    written: Results = {name: dict(values) for name, values in results.items()}
    table = table_of(written) if table is None else table
    manifest = run.write_manifest(size=size, results=written, facts=facts)
    listed = {name: value for name, value in manifest.items() if name not in _NOT_LISTED}
    shown = {**listed, "network": manifest["network"]}
    shown["trained_on"] = f"{len(manifest['trained_on'])} identities"
    if panels:
        curves = training_curves(read_metrics(run.folder), data=manifest["data"], panels=panels)
        figures = [("Training", curves), *figures]
    columns, rows = table
    values = {
        "title": f"{run.folder.name} on {manifest['data']}",
        "protocol": manifest["protocol"],
        "columns": columns,
        "rows": rows,
        "remark": remark,
        "figures": [(name, as_png(figure)) for name, figure in figures],
        "manifest": [(k, v if isinstance(v, str) else json.dumps(v)) for k, v in shown.items()],
    }
    write_text(run.folder / "report.html", render("page.html", values))
    print(manifest["protocol"])
    print(text_table(*table))
    if remark:
        print(remark)
    print(f"report: {run.folder / 'report.html'}")
    return written


def table_of(
    results: Results,
    *,
    columns: Mapping[str, str] | None = None,
    missing: str = "not measurable",
) -> Table:
    """Results by name as a table.

    ``columns`` are measures and their titles; None: every measure, by its own name. ``missing`` is
    shown where a measure has no value.
    """
    if columns is None:
        columns = {measure: measure for values in results.values() for measure in values}

    def cell(value: float | None) -> str:
        if value is None:
            return missing
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"

    rows = [(name, [cell(values.get(key)) for key in columns]) for name, values in results.items()]
    return list(columns.values()), rows


def text_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The table as aligned text, for a terminal."""
    lines = [["", *columns], *([name, *cells] for name, cells in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def render(template: str, values: Mapping[str, Any]) -> str:
    """A page from a template of this package; values are escaped."""
    import jinja2  # only here: steps and exports run without it

    loader = jinja2.PackageLoader("siamjax.report", ".")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(template).render(values)


def data_address(content: bytes, *, kind: str) -> str:
    """An image file as a ``data:`` address, so that a page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
