import json

import jax.numpy as jnp
import pytest

from siamjax.errors import UsageError
from siamjax.models.heads import DifferenceHead
from siamjax.models.lfw import LfwNet
from siamjax.models.siamese import Siamese
from siamjax.runs import folder as runs


def test_network_comes_back_from_json():
    backbone = LfwNet(width=0.25, dtype=jnp.bfloat16, axis_name="x", embedding_scale=None)
    network = Siamese(backbone=backbone, head=DifferenceHead())
    described = json.loads(json.dumps(runs.describe_module(network)))
    assert runs.build_module(described) == network


@pytest.mark.parametrize("name", ["siamjax.models.nothing:X", "siamjax.models.lfw:Nothing"])
def test_network_that_is_gone(name):
    with pytest.raises(UsageError, match="cannot be imported"):
        runs.build_module({"class": name, "fields": {}})


def test_only_modules_are_built():
    with pytest.raises(UsageError, match="no linen module"):
        runs.build_module({"class": "pathlib:Path", "fields": {}})


def test_folder_of_another_config(tmp_path):
    folder = tmp_path / "run"
    assert not runs.open_folder(folder, {"learning_rate": 0.1, "steps": 5})
    assert runs.open_folder(folder, {"learning_rate": 0.1, "steps": 5})
    with pytest.raises(UsageError, match=r"learning_rate is 0.1 there and 0.2 here"):
        runs.open_folder(folder, {"learning_rate": 0.2, "steps": 5})


def test_folder_that_is_no_run(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and no run"):
        runs.open_folder(tmp_path, {})
    assert (tmp_path / "letter.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"letter.txt.*cannot be made"):
        runs.open_folder(tmp_path / "letter.txt" / "run", {})


def test_unfinished_and_broken(tmp_path):
    with pytest.raises(UsageError, match=r"no finished run: manifest.json is missing"):
        runs.read_json(tmp_path / "manifest.json")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match=r"manifest.json: cannot be read"):
        runs.read_json(tmp_path / "manifest.json")
