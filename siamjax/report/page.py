"""The page of a run: one HTML file with everything in it."""

import base64
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamjax.aligned import measured, text_table
from siamjax.data.transforms import Size
from siamjax.errors import shown
from siamjax.files import dump_json, saying, write_text
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
    figures: "Sequence[tuple[str, Figure | Callable[[], Figure]]]" = (),
    facts: dict[str, Any] | None = None,
) -> Results:
    """End a run: write its manifest and its page, and print its table. Returns ``results``.

    ``results`` are measures by name, of the network and of the baselines; ``table`` is how to
    show them (None: a column a measure). ``remark`` explains them. ``panels`` are the training
    curves to draw; the other ``figures`` have headings, and may be functions that draw them. If
    one cannot be drawn, the page says so: manifest and table are written and printed before.
    ``facts`` are added to the manifest: what only this experiment has, such as a threshold.
    ``size`` is the image size of the network. Raises ``UsageError`` for a folder that cannot be
    written.
    """
    from siamjax.report.figures import training_curves

    written: Results = {name: dict(values) for name, values in results.items()}
    table = table_of(written) if table is None else table
    manifest = run.write_manifest(size=size, results=written, facts=facts)
    listed = {name: value for name, value in manifest.items() if name not in _NOT_LISTED}
    listed["network"] = manifest["network"]
    listed["trained_on"] = f"{len(manifest['trained_on'])} identities"
    for said in (manifest["protocol"], text_table(*table), remark):
        if said:
            print(_printable(said))
    if panels:

        def curves() -> "Figure":
            return training_curves(read_metrics(run.folder), data=manifest["data"], panels=panels)

        figures = [("Training", curves), *figures]
    columns, rows = table
    values = {
        "title": f"{run.folder.name} on {manifest['data']}",
        "protocol": manifest["protocol"],
        "columns": columns,
        "rows": rows,
        "remark": remark,
        "figures": [(heading, *_drawn(heading, figure)) for heading, figure in figures],
        "manifest": [(k, v if isinstance(v, str) else dump_json(v)) for k, v in listed.items()],
    }
    write_page(run.folder / "report.html", "page.html", values)
    print(f"report: {run.folder / 'report.html'}")
    return written


def _drawn(heading: str, figure: "Figure | Callable[[], Figure]") -> tuple[str, str]:
    """A figure as an address, or why there is none: no figure may end a training."""
    from siamjax.report.figures import as_png

    try:
        return as_png(figure() if callable(figure) else figure), ""
    except Exception as error:
        why = f"This figure could not be drawn ({type(error).__name__}: {shown(error)})."
        print(f"warning: report, {shown(heading)}: {why}", file=sys.stderr)
        return "", why


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

    rows = [
        (name, [measured(values.get(key), missing=missing) for key in columns])
        for name, values in results.items()
    ]
    return list(columns.values()), rows


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page from a template of this package; values are escaped, and shown as valid text.

    Raises ``UsageError`` if the file cannot be written.
    """
    import jinja2  # only here: steps and exports run without it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("siamjax.report", "."),
        autoescape=True,
        finalize=lambda value: _printable(value) if isinstance(value, str) else value,
    )
    with saying(
        f"{shown(path)}: the page cannot be written", remedy="make room, or give another place"
    ):
        write_text(path, environment.get_template(template).render(values))


def _printable(text: str) -> str:
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else shown(line, longest=10**6) for line in lines)


def data_address(content: bytes, *, kind: str) -> str:
    """An image file as a ``data:`` address, so that a page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
