"""Names of every kind in every figure and on the page: no mathematics, no warning, no traceback."""

import io
import json
import os
import unicodedata
import warnings
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from matplotlib.text import Text

from siamjax.data import of_arrays
from siamjax.data.images import ImageSet
from siamjax.data.pairs import PairList
from siamjax.errors import UsageError
from siamjax.metrics import verification
from siamjax.report import figures, ranking_figures
from siamjax.report.drawing import Figure
from siamjax.report.embedding_map import embedding_map
from siamjax.report.inside_figures import activation_figure
from siamjax.report.match_figure import match_figure
from siamjax.report.page import write_page, write_report
from siamjax.report.results import Shown, write_results
from siamjax.training import Run, RunConfig

NAMES = [
    "a$x^2_$b$",
    "$",
    "$\\frac{$",
    "_under_score",
    "a\\b%c{d}e^f#&~",
    "<b>'\"&amp;</b>",
    "new\nline",
    "U+2028 \u2028 U+85 \x85 tab \t end",
    "孫中山 Ωμέγα עברית العربية हिन्दी ไทย",
    "🧑🏽\u200d🚀 🇪🇺",
    unicodedata.normalize("NFD", "Éva Ångström"),
    os.fsdecode(b"Andr\xe9"),
    "\ud800",
    "\x1b[31mred\x00",
    "w" * 200,
    "w " * 100,
    "",
]


def images_of(name):
    count = 6
    pixels = np.random.default_rng(0).integers(0, 256, (count, 12, 10, 3), np.uint8)
    plain = of_arrays(pixels, ["a", "a", "a", "b", "b", "b"])
    keys = tuple(f"{name}/{number}" for number in range(count))
    return ImageSet(
        name=f"folder {name}",
        credit=name,
        keys=keys,
        identities=plain.identities,
        source=plain.source,
    )


def training(name):
    rows = [{"step": 1, "loss": 0.5, "validation_auc": 0.5}, {"step": 2, "loss": 0.4}]
    return figures.training_curves(rows, data=name, panels=figures.VERIFICATION_PANELS)


SCORE = np.asarray([0.1, 0.9, 0.3, 0.8])
SAME = np.asarray([False, True, True, False])


def roc(name):
    return figures.roc_curves({name: verification.roc(SCORE, SAME)}, data=name)


def histogram(name):
    return figures.histogram(SCORE, SAME, threshold=0.5, measure="distance", data=name)


def hardest(name):
    first, second = np.asarray([0, 0, 1, 2]), np.asarray([3, 1, 2, 4])
    pairs = PairList(name=name, first=first, second=second, same=SAME)
    return figures.hardest_pairs(images_of(name), pairs, SCORE, SCORE, measure="distance")


def lists(name):
    score, match = np.eye(2, 4), np.asarray([[True, False, True, False]] * 2)
    query, gallery = np.asarray([0, 1]), np.asarray([2, 3, 4, 5])
    return ranking_figures.ranked_lists(images_of(name), query, gallery, score, match, data=name)


def cmc(name):
    return ranking_figures.cmc_curves({name: np.linspace(0.5, 1, 5)}, data=name)


def catalogue(name):
    rows = np.random.default_rng(0).normal(size=(6, 3))
    labels = np.asarray([name, name, "b", "", "c", "d"])
    return embedding_map(images_of(name), rows, data=name, labels=labels, named=name)


def matches(name):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 60, 60, 3), np.uint8)
    features = rng.normal(size=(2, 12, 12, 2)).astype(np.float32)
    return match_figure(*pixels, *features, data=name, names=(name, name))


def maps(name):
    values = np.random.default_rng(0).normal(size=(5, 4, 3))
    return activation_figure(values, layer=name, network=name, name=name)


def cells(name):
    values = np.random.default_rng(0).normal(size=300)
    return activation_figure(values, layer=name, network=name, name=name)


MAKERS = [training, roc, histogram, hardest, lists, cmc, catalogue, matches, maps, cells]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_name_is_drawn(make):
    """All names in one figure each; the bounds of the image show that no text runs away."""
    whole = make(" ".join(NAMES))
    whole.savefig(io.BytesIO(), format="png", dpi=30)
    for name in (NAMES[0], NAMES[2], NAMES[3], "w" * 200) if make in (hardest, catalogue) else ():
        content = io.BytesIO()
        make(name).savefig(content, format="png", dpi=30, bbox_inches="tight")


def drawn(text, **options):
    """The texts of a figure after it was drawn, and its pixels."""
    figure = Figure(figsize=(3, 1))
    figure.text(0.1, 0.5, text, **options)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(content, format="raw")
    return [one.get_text() for one in figure.findobj(Text)], content.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name):
    texts, _ = drawn(name)
    assert "$" not in name or "$" in texts[0]
    assert texts[0].replace("\n", "").isprintable() or "\u200d" in texts[0]
    assert len(texts[0]) <= 150


def test_a_dollar_is_drawn_and_no_mathematics():
    mathematics, plain = drawn(r"\$x\$")[1], drawn("$x$")[1]
    assert plain != drawn("x")[1]
    assert drawn("$x$")[0] == ["$x$"]
    assert mathematics != plain  # here a backslash is a backslash


def test_what_no_font_has_is_a_box():
    assert drawn("a\U0010fffdb")[0] == [r"a\U0010fffdb"]  # private use
    assert drawn("a\U00013000b\U0001f680")[0][0].startswith("a")
    texts, pixels = drawn("\U0001f680")
    if texts == ["□"]:  # no font on this machine has a rocket
        assert pixels == drawn("□")[1]
    assert drawn("Ω✓é")[0] == ["Ω✓é"]


def test_logarithmic_axes_keep_their_formulas():
    figure = Figure()
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(1e-3, 1), xlabel="$a")
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert "mathdefault" in axes.get_xticklabels()[0].get_text()
    assert axes.get_xticklabels()[0].get_parse_math()
    assert not axes.xaxis.label.get_parse_math()


class Net(nn.Module):
    """A network for a run."""


def finished_run(folder, name="plain"):
    splits = SimpleNamespace(
        images=images_of(name),
        protocol=f"{name}: drawn by hand",
        request={"data": name},
        trained_on=(name, "b"),
        fingerprint=lambda: "abc",
    )
    batch = 2 * jax.local_device_count()
    run = Run.open(RunConfig(run=folder, batch_size=batch), Net(), splits, best="auc")
    run.begin()
    run.best_step, run.parameters = 3, 1
    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_page_holds_every_name_as_text(name, tmp_path, capsys):
    run = finished_run(tmp_path / "run", name)
    results = {name or "network": {"auc": 0.5}}
    write_report(run, results, size=4, remark=name, figures=[(name, lambda: training(name))])
    page = (tmp_path / "run/report.html").read_bytes().decode("utf-8")
    assert "could not be drawn" not in page
    assert "<b>" not in page
    assert not any(one in page for one in "\x00\x1b\u2028\x85")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["trained_on"] == [name, "b"]
    capsys.readouterr()
    shown = [(Shown(np.zeros((4, 4, 3), np.uint8), name, name), [])]
    write_results(tmp_path / "found.html", title=name, remark=name, lists=shown)
    (tmp_path / "found.html").read_bytes().decode("utf-8")


def test_a_roc_curve_says_where_people_are_too_few():
    curves = {"network": verification.roc(SCORE, SAME)}  # two different pairs: FAR 0.5 and 1
    said = [
        [one.get_text().strip() for one in figure.findobj(Text)].count("too few people to know")
        for figure in (
            figures.roc_curves(curves, data="x", unknown_to=0.75),
            figures.roc_curves(curves, data="x", unknown_to=0.5),
            figures.roc_curves(curves, data="x"),
        )
    ]
    assert said == [1, 0, 0]


def test_a_figure_that_fails_ends_no_training(tmp_path, capsys):
    def broken():
        raise ZeroDivisionError("by\nzero <i>")

    def gone():
        raise UsageError("a.png: no such image")

    run = finished_run(tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text("[[[\n[]\n")
    shown = [("One", broken), ("Two", gone), ("Three", training("x"))]
    panels = figures.VERIFICATION_PANELS
    results = {"network": {"auc": np.float32(0.5), "eer": np.float64("nan")}}
    given = write_report(run, results, size=np.int64(4), figures=shown, panels=panels)
    assert given["network"]["auc"] == 0.5
    said = capsys.readouterr()
    assert "0.5000" in said.out
    assert "report, One: This figure could not be drawn (ZeroDivisionError" in said.err
    page = (tmp_path / "run/report.html").read_text()
    assert page.count("could not be drawn") == 3  # the training curves too
    assert page.count("<img") == 1
    assert "<i>" not in page
    assert "How good" in page
    stored = json.loads((tmp_path / "run/manifest.json").read_text())
    assert stored["results"] == {"network": {"auc": 0.5, "eer": None}}
    assert stored["size"] == [4, 4]


@pytest.mark.parametrize("results", [{}, {"network": {}}, {"network": {"auc": float("nan")}}])
def test_a_run_without_any_number_has_a_page(results, tmp_path, capsys):
    run = finished_run(tmp_path / "run")
    write_report(run, results, size=4, remark="nothing was measured")
    page = (tmp_path / "run/report.html").read_text()
    assert "nothing was measured" in page
    assert "How good" not in page
    assert "nan" not in capsys.readouterr().out


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    run = finished_run(tmp_path / "run")
    (tmp_path / "run/report.html").mkdir()
    with pytest.raises(UsageError, match=r"report.html: the page cannot be written"):
        write_report(run, {"network": {"auc": 0.5}}, size=4)
    assert json.loads((tmp_path / "run/manifest.json").read_text())["results"]
    (tmp_path / "run/manifest.json").unlink()
    (tmp_path / "run/manifest.json").mkdir()
    with pytest.raises(UsageError, match=r"manifest.json: cannot be written"):
        write_report(run, {"network": {"auc": 0.5}}, size=4)
    with pytest.raises(UsageError, match="cannot be written"):
        write_page(tmp_path / "gone" / "x.html", "results.html", {})
