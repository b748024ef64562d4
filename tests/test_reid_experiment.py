"""reid_normxcorr end to end on a small folder in Market's naming: train, rank, report, go on."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from experiments import reid_normxcorr
from siamjax.data.reid.splits import load_splits
from siamjax.errors import UsageError
from siamjax.training.writers import read_metrics
from siamjax.runs import train
from siamjax.runs.finished import Finished
from siamjax.runs.verifier import Verifier
from siamjax.search import score_pairs
from siamjax.training.loop import Interrupted

TINY = {"steps": 2, "batch_size": 8, "evaluate_every": 1, "log_every": 1, "validation_queries": 2}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Four people to train on and validate, two to test; two pictures in each of two tracklets."""
    folder = tmp_path_factory.mktemp("small_market")
    images = load_splits("pedestrians").images
    cameras = load_splits("pedestrians").cameras
    people = [p for p in sorted(set(images.identities)) if len(tracklets(images, cameras, p)) > 1]
    for number, person in enumerate(people[:6], start=1):
        for camera, tracklet in enumerate(tracklets(images, cameras, person)[:2], start=1):
            shown = np.flatnonzero((images.identities == person) & (cameras == tracklet))
            for frame in range(3):
                part = "bounding_box_train" if number <= 4 else "bounding_box_test"
                part = "query" if number > 4 and frame == 0 else part
                path = folder / part / f"{number:04d}_c{camera}s1_{frame:06d}_00.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(images.image(int(shown[2 * frame]))).save(path)
    return folder


def tracklets(images, cameras, person):
    return sorted(set(cameras[images.identities == person].tolist()))


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
    assert manifest["config"]["experiment"] == "reid_normxcorr_plain"
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
    assert "not measurable" not in page


def test_run_can_be_used_again(finished):
    """Its scores are those of the finished run; it is no run to verify with."""
    folder, config, _ = finished
    opened = Finished.open(folder, kind="matcher")
    splits = load_splits(config.data, validation_people=2)
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
    with pytest.raises(
        UsageError, match="of kind matcher, one of kind verifier is needed; use it with rank"
    ):
        Verifier.open(folder)


@pytest.mark.slow
def test_stopped_and_gone_on_with_is_straight(finished, tmp_path, monkeypatch):
    _, config, results = finished
    stopped = reid_normxcorr.dataclasses.replace(config, run=tmp_path / "stopped")
    original = train.pair_batches

    def batches_with_sigterm(*args, **options):
        for batch in original(*args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(train, "pair_batches", batches_with_sigterm)
        with pytest.raises(Interrupted):
            reid_normxcorr.main(stopped)
    assert reid_normxcorr.main(stopped) == results


@pytest.mark.slow
def test_fused_with_the_released_recipe_single_shot_symmetric(market, tmp_path):
    config = reid_normxcorr.Config(
        **{**TINY, "steps": 1},
        data=str(market),
        validation_people=2,
        optimizer="released",
        symmetric=True,
        recolor=False,
        run=tmp_path / "run",
    )
    results = reid_normxcorr.main(config)
    assert 0 <= results["network"]["map"] <= 1


def test_refusals(market, tmp_path):
    for change, message in (
        ({"data": "nowhere"}, "neither a folder"),
        ({"split": 3}, "split 3 does not apply"),
        ({"negatives": 0}, "negatives 0"),
        ({"variant": "other"}, "variant 'other'"),
        ({"batch_size": 9}, "cannot be split over 8"),
        ({"trials": 0}, "trials 0"),
        ({"validation_queries": 0}, "validation_queries 0"),
        ({"workers": -1}, "workers -1"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    ):
        options = {"data": str(market), "validation_people": 2, "run": tmp_path / "run", **change}
        with pytest.raises(UsageError, match=message):
            reid_normxcorr.main(reid_normxcorr.Config(**{**TINY, **options}))
        assert not (tmp_path / "run").exists()
