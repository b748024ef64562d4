"""The page of a run: one HTML file with everything in it."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamjax import messages, processes
from siamjax.aligned import text_table
from siamjax.data.transforms import Size
from siamjax.errors import shown
from siamjax.files import dump_json, saying, write_text
from siamjax.inference.judging import Judgement
from siamjax.report.first_screen import first_screen
from siamjax.report.next_steps import next_steps
from siamjax.report.tables import Table, certainty, chosen_measure, reasons, table_of, text_of
from siamjax.training.run import Results, Run
from siamjax.training.trusted import modules_to_trust
from siamjax.training.writers import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from siamjax.report.figures import Panels

# Facts that the page shows elsewhere, or that are too long for its list.
_NOT_LISTED = (
    *("results", "intervals", "by_category", "intervals_by_category"),
    *("network", "trained_on"),
)


@processes.by_first
def write_report(
    run: Run,
    results: Mapping[str, Mapping[str, float | None]] | Judgement,
    *,
    size: Size,
    task: str = "",
    tables: Sequence[tuple[str, Table]] = (),
    remark: str = "",
    panels: "Panels" = (),
    figures: "Sequence[tuple[str, Figure | Callable[[], Figure]]]" = (),
    facts: dict[str, Any] | None = None,
) -> Results:
    """End a run: write its manifest and its page, and print its table. Returns the results.

    ``results`` are measures by name, of the network and of the baselines, in this order; a
    :class:`~siamjax.inference.judging.Judgement` has their intervals too. The page opens with the
    measure that chose the checkpoint, or else the first. ``task`` (verification, reid, retrieval;
    empty: another) says which commands come next. ``tables`` are further ones, with headings, and
    ``remark`` explains all. ``panels`` are the training
    curves to draw; the other ``figures`` have headings, and may be functions that draw them. If
    one cannot be drawn, the page says so: manifest and table are written and printed before.
    ``facts`` are added to the manifest: what only this experiment has, such as a threshold.
    ``size`` is the image size of the network. Of several processes the first writes and prints.
    Raises ``UsageError`` for a folder that cannot be written.
    """
    from siamjax.report.figures import training_curves

    if run.stopped is not None:
        remark = f"{remark} Training stopped {run.stopped}.".strip()
    judged = results if isinstance(results, Judgement) else Judgement(results=_plain(results))
    facts = ({"task": task} if task else {}) | (facts or {}) | {"intervals": judged.intervals}
    manifest = run.write_manifest(size=size, results=judged.results, facts=facts)
    listed = {name: value for name, value in manifest.items() if name not in _NOT_LISTED}
    listed["network"] = manifest["network"]
    listed["trained_on"] = f"{len(manifest['trained_on'])} identities"
    chosen, foreign = chosen_measure(judged, run.best), modules_to_trust(run.description)
    steps = next_steps(run.folder, task, trust=foreign)
    more = [f"{heading}\n{text_table(*table)}" for heading, table in tables]
    for said in (manifest["protocol"], text_of(judged, chosen=chosen), *more, remark):
        if said:
            print(_printable(said))
    if panels:

        def curves() -> "Figure":
            return training_curves(read_metrics(run.folder), data=manifest["data"], panels=panels)

        figures = [("Training", curves), *figures]
    against = judged.best_baseline(chosen) if judged.draws and chosen is not None else None
    whole = table_of(judged, against=against)
    values = {
        "title": f"{run.experiment} on {manifest['data']}",
        "protocol": manifest["protocol"],
        "first": chosen and first_screen(judged, chosen, seed=run.config.seed),
        "tables": [(heading, *table) for heading, table in (("All measures", whole), *tables)],
        "remarks": [*reasons(judged), " ".join([*certainty(judged), remark])],
        "figures": [(heading, *drawn(heading, figure)) for heading, figure in figures],
        "steps": steps,
        "manifest": [(k, v if isinstance(v, str) else dump_json(v)) for k, v in listed.items()],
    }
    write_page(run.folder / "report.html", "page.html", values)
    print(f"report: {run.folder / 'report.html'}")
    if steps:
        messages.note(_printable(f"next: {steps[0][1][0]}"))
    return judged.results


def _plain(results: Mapping[str, Mapping[str, float | None]]) -> Results:
    """Results as a manifest keeps them: what is no number is not known."""
    return {
        name: {
            measure: value if value is not None and math.isfinite(value) else None
            for measure, value in values.items()
        }
        for name, values in results.items()
    }


def drawn(heading: str, figure: "Figure | Callable[[], Figure]") -> tuple[str, str]:
    """A figure as an address, or why there is none: no figure may end a training."""
    from siamjax.report.figures import as_png

    try:
        return as_png(figure() if callable(figure) else figure), ""
    except Exception as error:
        why = f"This figure could not be drawn ({type(error).__name__}: {shown(error)})."
        messages.warn(f"report, {shown(heading)}: {why}")
        return "", why


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
