"""What a run was made for, as its manifest or an earlier version's tells it."""

from pathlib import Path

import pytest

from siamjax.errors import UsageError
from siamjax.inference.evaluation import own_test, task_of
from siamjax.training.finished import Described


def described(**more):
    return Described(folder=Path("r"), manifest={"network": {}, "size": 8, "step": 1, **more})


@pytest.mark.parametrize(
    ("manifest", "task"),
    [
        ({"task": "reid", "results": {"network": {"auc": 0.5}}}, "reid"),
        ({"results": {"network": {"eer": 0.1, "auc": 0.9}}}, "verification"),
        ({"results": {"network": {"rank1": 0.9, "map": 0.5}}}, "reid"),
        ({"results": {"network": {"recall_at_1": 0.9}}}, "retrieval"),
        ({"task": "poetry", "results": {"network": {"auc": 0.5}}}, None),
        ({"results": {"mine": {"auc": 0.5}}}, None),
        ({"results": None}, None),
        ({}, None),
    ],
)
def test_task(manifest, task):
    assert task_of(described(**manifest)) == task


def test_a_test_that_cannot_be_made_again_asks_for_data(tmp_path):
    with pytest.raises(UsageError, match=r"r/manifest.json does not say .*; give --data"):
        own_test(described())
    with pytest.raises(UsageError, match=r"does not say what the run was tested on; give --data"):
        own_test(described(task="verification", splits={"seed": 0}))
    file = tmp_path / "dinov2.pth"
    file.touch()
    with pytest.raises(UsageError, match=r"dinov2.pth: published weights have no test; give --dat"):
        own_test(Described(folder=file, manifest=described().manifest))
    gone = {"data": str(tmp_path / "gone"), "seed": 0}
    with pytest.raises(UsageError, match=r"manifest.json names: .*gone: no such folder.*--data"):
        own_test(described(task="verification", splits=gone))
