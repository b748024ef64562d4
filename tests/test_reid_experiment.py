"""reid_normxcorr end to end on a small folder in Market's naming: train, rank, report, resume."""

import dataclasses
import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import optax
import pytest
from PIL import Image

from experiments import reid_normxcorr
from siamjax.data import load_reid, of_arrays
from siamjax.errors import Interrupted, UsageError
from siamjax.inference import ReidEvaluation, evaluate_run, score_pairs
from siamjax.inference.reid import rank_gallery
from siamjax.inference.verification import Verifier
from siamjax.report import reid_report
from siamjax.training import Finished, Run, dampened_sgd
from siamjax.training.writers import read_metrics

TINY = {"steps": 2, "batch_size": 8, "evaluate_every": 1, "log_every": 1}
SIZE = (64, 40)


@pytest.fixture(autouse=True, scope="module")
def small_images():
    """Of the published size in tests/test_learning.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reid_normxcorr, "SIZE", SIZE)
        yield


@pytest.fixture(scope="module")
def finished(market, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    config = reid_normxcorr.Config(
        **TINY, data=str(market), validation_people=2, fused=False, run=folder
    )
    return folder, config, reid_normxcorr.main(config)


def test_run_folder_and_report(finished):
    folder, _, results = finished
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["experiment"] == "reid_normxcorr"
    assert manifest["results"] == json.loads(json.dumps(results))
    assert len(manifest["trained_on"]) == 2
    assert set(results) == {"network", "HSV histograms of stripes", "raw pixels 64x24"}
    # 4 queries (2 people x 2 cameras); a gallery of 8, of which each query drops its own camera's.
    assert results["network"]["queries"] == 4
    assert results["network"]["gallery"] == 8
    assert results["network"]["rank10"] is None
    scores = np.load(next(folder.glob("test_scores_*.npy")))
    assert scores.shape == (4, 8)
    assert np.isfinite(scores).all()
    rows = read_metrics(folder)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert all(0 <= row["validation_map"] <= 1 for row in rows if "validation_map" in row)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "mINP" in page
    for method, values in manifest["intervals"].items():
        assert set(values) == {"rank1", "rank5", "map", "map_trapezoid", "minp"}
        for measure, (low, high) in values.items():
            assert 0 <= low <= results[method][measure] <= high <= 1
    assert "Not known: rank-10, rank-20; the gallery has 8 images" in page
    assert f"{results['network']['map']:.4f}" in page[: page.index("<h2>")]
    assert "over 2 people, 4 queries" in page
    assert "not measurable" not in page


def test_run_can_be_used_again(finished):
    """Its scores are those of the finished run; two images are compared, but not decided on."""
    folder, config, results = finished
    opened = Finished.open(folder)
    judged = evaluate_run(opened).judged
    assert judged.results["network"] == pytest.approx(results["network"])
    assert judged.results["raw pixels 64x24"] == pytest.approx(results["raw pixels 64x24"])
    assert opened.size == SIZE
    splits = load_reid(config)
    again = score_pairs(
        opened.network,
        opened.variables,
        splits.images,
        splits.test.query,
        splits.test.gallery,
        size=opened.size,
        progress=False,
    )
    np.testing.assert_allclose(again, np.load(next(folder.glob("test_scores_*.npy"))), rtol=1e-5)
    pixels = [
        splits.images.image(index) for index in (splits.test.query[0], splits.test.gallery[0])
    ]
    value, same = Verifier.open(folder).compare(*pixels)
    assert (round(value - again[0, 0], 5), same) == (0, None)


def test_a_gallery_of_arrays_is_ranked_as_its_files_are(finished, market):
    opened = Finished.open(finished[0])
    query = sorted((market / "query").iterdir())[0]
    folder = market / "bounding_box_test"
    gallery = sorted(folder.iterdir())
    ranked = rank_gallery(opened, [query], folder, top=3)
    assert [ranked.images.keys[index] for index in ranked.query] == [str(query)]
    assert {ranked.images.keys[index] for index in ranked.found[0]} <= set(map(str, gallery))
    assert ranked.found.shape == ranked.value.shape == (1, 3)
    assert (np.diff(ranked.value) <= 0).all()
    pixels = [np.asarray(Image.open(path)) for path in (query, *gallery)]
    arrays = rank_gallery(
        opened, of_arrays(pixels[:1], name="asked"), of_arrays(pixels[1:], name="shown"), top=3
    )
    assert arrays.images.name == "shown"
    np.testing.assert_array_equal(arrays.found, ranked.found)
    np.testing.assert_allclose(arrays.value, ranked.value, rtol=1e-6, atol=1e-6)
    both = rank_gallery(opened, of_arrays(pixels[:1]), folder, top=3, symmetric=True)
    assert (both.value != ranked.value).any()
    for queries, top in (([], 3), ([query], 0)):
        with pytest.raises(UsageError, match="at least 1 of each"):
            rank_gallery(opened, queries, folder, top=top)


def test_single_shot_and_symmetric(finished, tmp_path):
    """The same run, judged by another rule: galleries of one image a person, drawn three times."""
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("test_scores*"))
    config = dataclasses.replace(config, run=tmp_path / "run")
    market = load_reid(config)
    splits = dataclasses.replace(market, test=dataclasses.replace(market.test, rule="single_shot"))
    network, _, _ = reid_normxcorr.build(config)
    run = Run.open(config, network, market, best="validation_map")
    variables = run.best_variables()
    results = reid_report(
        run, network, variables, splits, size=SIZE, baselines={}, symmetric=True, trials=3
    )
    found = results["network"]
    assert (found["queries"], found["gallery"], found["trials"]) == (4, 2, 3)
    assert found["rank1_deviation"] is not None
    low, high = json.loads((tmp_path / "run/manifest.json").read_text())["intervals"]["network"][
        "rank1"
    ]
    assert 0 <= low <= found["rank1"] <= high <= 1
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["trials"] == 3
    assert "one gallery image a person, 3 trials" in (tmp_path / "run/report.html").read_text()
    query, gallery = market.test.query, market.test.gallery
    options = {"size": SIZE, "progress": False}
    one_way = score_pairs(network, variables, market.images, query, gallery, **options)
    other = score_pairs(network, variables, market.images, gallery, query, **options).T
    mean = (1 / (1 + np.exp(-one_way)) + 1 / (1 + np.exp(-other))) / 2
    written = np.load(next((tmp_path / "run").glob("test_scores_*.npy")))
    np.testing.assert_allclose(1 / (1 + np.exp(-written)), mean, atol=1e-6)
    judged = ReidEvaluation.of(splits, splits.test)
    for trials in (1, 3):
        again, _ = judged.judge({"network": written}, trials=trials, seed=config.seed)
        assert (again.results["network"] == found) == (trials == 3)
    with pytest.raises(UsageError, match="trials 0 must be at least 1"):
        judged.judge({"network": written}, trials=0)
    few = ReidEvaluation.of(market, market.test, most_queries=2)
    assert (len(few.ranking.query), few.match.shape) == (2, (2, 8))
    with pytest.raises(UsageError, match="0 queries of test people: ask for at least 1"):
        ReidEvaluation.of(market, market.test, most_queries=0)


def test_stopped_and_resumed_is_straight(finished, tmp_path, monkeypatch):
    _, config, results = finished
    stopped = dataclasses.replace(config, run=tmp_path / "stopped")
    original = reid_normxcorr.pair_batches

    def stopping(*args, **options):
        batches = original(*args, **options)

        def begin(start):
            for batch in batches(start):
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        begin.unit, begin.describe = batches.unit, batches.describe
        return begin

    with monkeypatch.context() as patch:
        patch.setattr(reid_normxcorr, "pair_batches", stopping)
        with pytest.raises(Interrupted, match="143"):
            reid_normxcorr.main(stopped)
    assert [row["step"] for row in read_metrics(tmp_path / "stopped") if "loss" in row] == [1]
    assert reid_normxcorr.main(stopped) == results


@pytest.mark.slow
def test_fused_with_the_optimizer_as_released(market, tmp_path, monkeypatch):
    def released(rate):
        return dampened_sgd(0.05, learning_rate_decay=1e-4, weight_decay=5e-4)

    schedules = SimpleNamespace(adam=released, cosine_decay_schedule=optax.cosine_decay_schedule)
    monkeypatch.setattr(reid_normxcorr, "optax", schedules)
    config = reid_normxcorr.Config(
        **{**TINY, "steps": 1},
        data=str(market),
        validation_people=2,
        symmetric=True,
        run=tmp_path / "run",
    )
    results = reid_normxcorr.main(config)
    assert 0 <= results["network"]["map"] <= 1


def test_refusals(market, tmp_path):
    for change, message in (
        ({"data": "nowhere"}, "no such data set"),
        ({"split": 3}, "split 3 does not apply"),
        ({"column_search": -1}, "column_search -1: must be at least 0"),
        ({"batch_size": 9}, "batch of 9 examples cannot be split over 8"),
        ({"workers": -1}, "workers -1"),
        ({"learning_rate": -1.0}, "learning_rate -1.0: must be a number.* above 0"),
    ):
        options = {"data": str(market), "validation_people": 2, "run": tmp_path / "run", **change}
        with pytest.raises(UsageError, match=message):
            reid_normxcorr.main(reid_normxcorr.Config(**{**TINY, **options}))
        assert not (tmp_path / "run").exists()
