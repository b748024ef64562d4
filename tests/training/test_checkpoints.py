import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from full_disk import files_of_at_most

from siamjax.errors import UsageError
from siamjax.parallel import replicate
from siamjax.training.checkpoints import Checkpoints, load_variables
from siamjax.training.state import create_state

# Orbax leaves the errors of its other reads of a damaged checkpoint to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("collected"),
]


def state_at(step, seed=0):
    optimizer = optax.adam(1e-3)
    kernel = jax.random.normal(jax.random.key(seed + step), (64, 64))
    variables = {"params": {"kernel": kernel}, "batch_stats": {"mean": jnp.full(3, 1.0 * step)}}
    state = create_state(variables, optimizer, key=jax.random.key(7))
    return replicate(state.replace(step=jnp.asarray(step, jnp.int32)))


def equal(a, b):
    def compare(x, y):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    jax.tree.map(compare, a, b)


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", best="auc")
    yield opened
    opened.close()


def damage(folder, step, share):
    """Cut the largest data file of a checkpoint."""
    files = [p for p in (folder / "checkpoints" / str(step)).rglob("d/*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[: int(len(content) * share)])


def test_everything_comes_back(checkpoints):
    state = state_at(3)
    checkpoints.save(state, {"auc": 0.5})
    restored, messages = checkpoints.restore(state_at(0, seed=9))
    assert messages == []
    equal(restored, state)
    assert restored.params["kernel"].sharding.device_set == set(jax.devices())


def test_keys_come_back_wherever_they_are(checkpoints):
    key = jax.random.key(3, impl="rbg")
    state = state_at(1).replace(opt_state={"noise": key}, model_state={"dropout": {"key": key}})
    checkpoints.save(state)
    equal(checkpoints.restore(state_at(0).replace(**vars(state)))[0], state)
    assert checkpoints.load(1)["dropout"]["key"].dtype == key.dtype


def test_those_of_earlier_versions_are_read(tmp_path):
    """These were written by Orbax's ``Checkpointer``, keys as they are, without checksums."""
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(tmp_path / "checkpoints") as written:
        for step, auc in ((1, 0.9), (2, 0.5), (3, None)):
            state = state_at(step)
            written.save_checkpointables(
                step,
                {
                    "variables": state.variables,
                    "training": {k: getattr(state, k) for k in ("step", "opt_state", "key")},
                },
                metrics=None if auc is None else {"auc": auc, "step": float(step)},
            )
    opened = Checkpoints(tmp_path / "checkpoints", best="auc")
    assert opened.best_steps() == [1, 2, 3]
    restored, messages = opened.restore(state_at(0))
    assert messages == []
    equal(restored, state_at(3))
    equal(opened.load_best()[1], state_at(1).variables)
    opened.save(state_at(4), {"auc": 0.4})
    assert opened.steps() == [1, 3, 4]
    opened.close()


def test_a_kill_within_a_removal_leaves_no_part_of_a_checkpoint(checkpoints, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:  # killed before the first file was removed
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        for step, auc in ((1, 0.9), (2, 0.5), (3, 0.5), (4, 0.5)):
            checkpoints.save(state_at(step), {"auc": auc})
    left = tmp_path / "checkpoints" / "removed" / "2"
    (left / "metrics" / "metrics").unlink()
    again = Checkpoints(tmp_path / "checkpoints", best="auc")
    assert (again.messages, again.steps()) == ([], [1, 3, 4])
    assert not left.parent.exists()
    again.close()


def test_two_latest_and_the_best_are_kept_the_earliest_of_equals(checkpoints):
    for step, auc in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.7), (5, 0.6)):
        checkpoints.save(state_at(step), {"auc": auc})
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best_steps() == [2, 4, 5]


def test_a_save_without_metric_is_latest_and_not_best(checkpoints):
    checkpoints.save(state_at(1), {"auc": 0.5})
    checkpoints.save(state_at(2))
    assert checkpoints.best_steps() == [1, 2]
    assert int(checkpoints.restore(state_at(0))[0].step) == 2


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_damaged_latest_falls_back_says_so_and_can_be_saved_anew(checkpoints, tmp_path, share):
    for step in (1, 2):
        checkpoints.save(state_at(step), {"auc": 0.5})
    damage(tmp_path, 2, share)
    restored, messages = checkpoints.restore(state_at(0))
    equal(restored, state_at(1))
    assert len(messages) == 1
    assert "step 2 cannot be read" in messages[0]
    assert (tmp_path / "damaged" / "2").is_dir()
    checkpoints.save(state_at(2), {"auc": 0.7})
    equal(checkpoints.restore(state_at(0))[0], state_at(2))


def in_checkpoint(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def damages(content, rng, flips):
    """What can become of a file; None: it is gone."""
    yield from (None, b"", content[: len(content) // 2], content[:-1], content + b"x")
    for place in rng.integers(len(content), size=flips):
        yield (
            content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :]
        )


def check_damaged(folder, tmp_path, damaged, content):
    """Both checkpoints are as they were, or the damaged one is refused and the other is taken."""
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    shutil.copytree(folder, tmp_path / "copy" / "checkpoints")
    path = tmp_path / "copy" / "checkpoints" / "2" / damaged
    path.unlink() if content is None else path.write_bytes(content)
    read = []
    with contextlib.suppress(UsageError):
        equal(load_variables(path.parents[len(damaged.parts)], 2), state_at(2).variables)
        read.append("variables")
    opened = Checkpoints(tmp_path / "copy" / "checkpoints", best="auc")
    try:
        restored, messages = opened.restore(state_at(0))
        messages = opened.messages + messages
        assert len(messages) == (int(restored.step) == 1)
        equal(restored, state_at(int(restored.step)))
        if not messages:
            read.append("training")
        step, variables, more = opened.load_best()
        equal(variables, state_at(step).variables)
        assert step == 2 or messages or more  # never another one in silence
    finally:
        opened.close()
    return read


@pytest.fixture
def two(checkpoints, tmp_path):
    for step, auc in ((1, 0.5), (2, 0.9)):
        checkpoints.save(state_at(step), {"auc": auc})
    return tmp_path / "checkpoints"


def test_what_only_the_checksum_tells(two, tmp_path):
    other = (two / "1" / "metrics" / "metrics").read_bytes().replace(b'"step": 1', b'"step": 2')
    assert check_damaged(two, tmp_path, Path("metrics/metrics"), other) == ["variables"]
    for item, read in (("variables", []), ("training", ["variables"])):
        whole = tmp_path / item / "checkpoints"
        shutil.copytree(two, whole)
        shutil.rmtree(whole / "2" / item)
        shutil.copytree(whole / "1" / item, whole / "2" / item)
        about = Path("_CHECKPOINT_METADATA")
        content = (whole / "2" / about).read_bytes()
        assert check_damaged(whole, tmp_path, about, content) == read
        opened = Checkpoints(whole, best="auc")
        message = opened.restore(state_at(0))[1][0]
        assert "step 2 cannot be read (its checksum differs); moved to" in message
        opened.close()


def test_a_changed_file_is_refused_or_does_not_matter(two, tmp_path):
    """A few files; a slow test takes them all."""
    files = in_checkpoint(two / "2")
    largest = max(files, key=lambda path: (two / "2" / path).stat().st_size)
    for path in (largest, Path("_CHECKPOINT_METADATA"), Path("metrics/metrics")):
        content = (two / "2" / path).read_bytes()
        flipped = content[:18] + bytes([content[18] ^ 1]) + content[19:]
        for changed in (None, flipped):
            check_damaged(two, tmp_path, path, changed)


def rewritten(change):
    """What Orbax writes about a checkpoint, changed."""

    def rewrite(content):
        about = json.loads(content)
        change(about)
        return json.dumps(about).encode()

    return rewrite


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace(b'"metrics"', b'"metricr"'),
        lambda content: content.replace(b'"metrics": {}', b'"metricr": {}'),
        rewritten(lambda about: about.update(commit_timestamp_nsecs="yesterday")),
        rewritten(lambda about: about.update(commit_timestamp_nsecs=10**40)),
        rewritten(lambda about: about.update(item_handlers=3)),
        rewritten(lambda about: about.update(custom_metadata=[])),
        lambda content: b"[]",
        lambda content: b"\xff\xfe",
        lambda content: b"[" * 100_000,
    ],
)
def test_what_orbax_cannot_read_does_not_keep_it_from_opening_the_others(two, tmp_path, change):
    about = Path("_CHECKPOINT_METADATA")
    changed = change((two / "2" / about).read_bytes())
    assert "training" not in check_damaged(two, tmp_path, about, changed)
    assert (tmp_path / "copy" / "damaged" / "2").is_dir()


def test_all_that_is_beside_the_arrays_damaged_stops_and_moves_nothing(two):
    for step in ("1", "2"):
        (two / step / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UsageError, match=r"none of the checkpoints \[1, 2\] can be read"):
        Checkpoints(two, best="auc")
    assert sorted(path.name for path in two.iterdir()) == ["1", "2"]


@pytest.mark.slow
def test_every_file_removed_cut_and_changed(two, tmp_path):
    rng, refused = np.random.default_rng(0), set()
    for path in in_checkpoint(two / "2"):
        for content in damages((two / "2" / path).read_bytes(), rng, 4):
            if check_damaged(two, tmp_path, path, content) != ["variables", "training"]:
                refused.add(path.parts[0])
    assert refused == {"_CHECKPOINT_METADATA", "metrics", "training", "variables"}


def test_nothing_saved_starts_and_all_damaged_stops(checkpoints, tmp_path):
    assert checkpoints.restore(state_at(0)) == (None, [])
    checkpoints.save(state_at(1))
    damage(tmp_path, 1, 0.5)
    with pytest.raises(UsageError, match=r"none of the checkpoints \[1\] can be read"):
        checkpoints.restore(state_at(0))
    assert checkpoints.steps() == [1]  # nothing was moved


def test_another_structure_moves_nothing(checkpoints):
    checkpoints.save(state_at(1))
    other = create_state(
        {"params": {"weights": jnp.ones(3)}}, optax.sgd(0.1), key=jax.random.key(0)
    )
    with pytest.raises(UsageError, match="none of the checkpoints"):
        checkpoints.restore(replicate(other))
    assert checkpoints.steps() == [1]


def test_broken_metrics_do_not_hide_the_other_checkpoints(checkpoints, tmp_path):
    for step in (1, 2):
        checkpoints.save(state_at(step), {"auc": 0.5})
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text("{")
    again = Checkpoints(tmp_path / "checkpoints", best="auc")
    assert again.steps() == [1]
    assert "step 2 cannot be read" in again.messages[0]
    assert (tmp_path / "damaged" / "2").is_dir()
    again.close()


def test_not_finite_is_not_saved(checkpoints):
    checkpoints.save(state_at(1))
    broken = state_at(2)
    broken = broken.replace(params={"kernel": broken.params["kernel"].at[3, 4].set(jnp.inf)})
    with pytest.raises(UsageError, match=r"step 2 are not finite.*step 1"):
        checkpoints.save(broken)
    assert checkpoints.steps() == [1]


def test_damaged_best_gives_way_when_used(checkpoints, tmp_path):
    for step, auc in ((1, 0.9), (2, 0.5)):
        checkpoints.save(state_at(step), {"auc": auc})
    damage(tmp_path, 1, 0.5)
    step, variables, messages = checkpoints.load_best()
    equal(variables, state_at(2).variables)
    assert step == 2
    assert "checkpoints/1 cannot be read" in messages[0]
    damage(tmp_path, 2, 0.5)
    with pytest.raises(UsageError, match="holds no checkpoint that can be read"):
        checkpoints.load_best()


def test_a_disk_without_space_is_said_before_anything_is_written(
    tmp_path, checkpoints, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused = checkpoints.save(state_at(7))
    assert re.search(r"checkpoint of step 7 needs [0-9,]+ bytes, and 1,000 are free$", refused)
    assert checkpoints.steps() == []
    monkeypatch.undo()
    assert checkpoints.save(state_at(7)) is None
    assert checkpoints.steps() == [7]


def test_a_disk_that_does_not_tell_its_size(tmp_path, checkpoints, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=0, used=0, free=0))
    checkpoints.save(state_at(7))
    assert checkpoints.steps() == [7]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file x [os_error_code='122']"),
    ],
)
def test_what_the_disk_refuses_is_one_line(checkpoints, monkeypatch, error):

    def refused(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._orbax, "save", refused)
    refused = checkpoints.save(state_at(7))
    assert refused.endswith("of step 7 cannot be written (Disk quota exceeded)")
    monkeypatch.setattr(checkpoints._orbax, "save", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a bug is no disk's
        checkpoints.save(state_at(7))


@pytest.mark.filterwarnings("ignore")  # Orbax leaves tasks behind
def test_a_full_disk_costs_that_checkpoint_alone(checkpoints, tmp_path):
    checkpoints.save(state_at(1), {"auc": 0.5})
    for step in (2, 3):
        with files_of_at_most(10_000):  # less than the kernel
            refused = checkpoints.save(state_at(step), {"auc": 0.9})
        assert refused.endswith(f"step {step} cannot be written (File too large)")
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
        equal(checkpoints.restore(state_at(0))[0], state_at(1))
    for step in (2, 3):
        assert checkpoints.save(state_at(step), {"auc": 0.9}) is None
    assert checkpoints.best_steps() == [2, 3]
    equal(checkpoints.restore(state_at(0))[0], state_at(3))


def test_what_a_killed_save_leaves_is_removed(checkpoints, tmp_path):
    part = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "variables"
    part.mkdir(parents=True)
    checkpoints.save(state_at(3))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
