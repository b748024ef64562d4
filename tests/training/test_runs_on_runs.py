"""Runs that start from the weights of others, that go on to more steps, and that stop early."""

import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_run import (
    NETWORK,
    OPTIMIZER,
    assert_equal,
    batches,
    evaluate,
    killed_at,
    open_run,
    rows,
    start_of,
    train_step,
    trained,
    variables_of,
)

from siamjax.data import divide_people, of_arrays
from siamjax.errors import Interrupted, UsageError
from siamjax.inference.evaluation import leaks
from siamjax.inference.tested import VerificationTest
from siamjax.parallel import replicate, shard
from siamjax.training import averaged, create_state, fit
from siamjax.training.checkpoints import load_variables
from siamjax.training.finished import Described
from siamjax.training.seen import Seen
from siamjax.training.start import Start
from siamjax.training.writers import read_metrics

STEP = train_step()


class OtherHead(nn.Module):
    """As the network of tiny_run, with another last layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(3, name="first")(x)
        return nn.Dense(2, name="third")(x).sum(1)


def finish(folder, **options):
    """The manifest of a run that is trained, or extended, to its end."""
    trained(folder, [(STEP, None)], **options)
    return judge(open_run(folder, **options))


def judge(run):
    run.best_variables()
    return run.write_manifest(size=4, results={"network": {"score": 0.5}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, finish(folder)


def started(folder, start, *, data=batches, network=NETWORK, step=STEP, **options):
    """What an experiment does, from the weights of a run."""
    run = open_run(folder, network, start_from=start, **options)
    try:
        state = create_state(run.initial(variables_of(network)), OPTIMIZER, key=jax.random.key(4))
        return fit(run, state, step, data, evaluate=evaluate)
    finally:
        run.close()


def best_of(folder, manifest):
    return jax.device_get(load_variables(folder / "checkpoints", manifest["step"]))


# --start-from


def test_training_starts_from_the_best_weights_and_state(finished, tmp_path, capsys):
    folder, manifest = finished
    run = open_run(tmp_path / "run", start_from=folder)
    initial = run.initial(variables_of())
    assert_equal(initial, best_of(folder, manifest))
    assert f"starting from {folder}, step {manifest['step']}\n" == capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # The first loss is that of these weights, and not of new ones.
    started(tmp_path / "run", folder, steps=1)
    state = create_state(initial, OPTIMIZER, key=jax.random.key(4))
    _, metrics = STEP(replicate(state), shard(next(batches(0))))
    assert rows(tmp_path / "run")[0]["loss"] == float(metrics["loss"].compute())


def test_layers_of_one_side_alone_are_named(finished, tmp_path, capsys):
    folder, manifest = finished
    run = open_run(tmp_path / "run", OtherHead(), start_from=folder)
    own = variables_of(OtherHead())
    initial, saved = run.initial(own), best_of(folder, manifest)
    assert_equal(initial["params"]["first"], saved["params"]["first"])
    assert_equal(initial["params"]["third"], own["params"]["third"])
    assert set(initial) == {"params"}
    said = capsys.readouterr().err
    assert "; new: third; left out: norm, second; network.class is 'tiny_run:Net'" in said
    assert said.count("\n") == 1


def of(**params):
    return {"params": {name: {"kernel": value} for name, value in params.items()}}


def put(given, own):
    start = Start(folder=Path("runs/a"), step=3, network={}, variables=given, seen=None)
    return start.put({}, own)


@pytest.mark.parametrize(
    ("given", "own", "message"),
    [
        (
            of(a=np.zeros((2, 3)), b=np.zeros(2), c=np.zeros(5)),
            of(a=np.zeros((2, 4)), b=np.zeros(3), c=np.zeros(5)),
            r"^--start-from runs/a: its params/a/kernel is float64 \(2, 3\), and this network's "
            r"is float64 \(2, 4\); 1 more differ; give the options",
        ),
        (
            of(a=np.zeros(3, np.float32)),
            of(a=np.zeros(3, np.float16)),
            r"kernel is float32 \(3,\), and this network's is float16 \(3,\); give",
        ),
        (
            of(a=np.zeros(3), b=np.zeros(3)),
            of(c=np.zeros(3)),
            "no layer in common: it has a, b, and this network has c$",
        ),
    ],
    ids=["shape", "dtype", "nothing"],
)
def test_what_does_not_fit_is_refused(given, own, message):
    with pytest.raises(UsageError, match=message):
        put(given, own)


def test_a_refused_start_leaves_no_folder(finished, tmp_path):
    (tmp_path / "letter").mkdir()
    for start, message in [
        (tmp_path / "letter", "not a finished run: manifest.json is missing"),
        (tmp_path / "nowhere", "not a finished run: manifest.json is missing"),
        (tmp_path / "letter" / ".." / "run", "is the run itself; give --run another folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_run(tmp_path / "run", start_from=start)
    # An experiment that forgets to ask would train from new weights in silence.
    run = open_run(tmp_path / "run", start_from=finished[0])
    with pytest.raises(UsageError, match=r"does not use it; .* create_state\(run.initial"):
        fit(run, start_of(), STEP, batches, evaluate=evaluate)
    assert not (tmp_path / "run").exists()


def test_resumed_without_the_run_that_it_started_from(finished, tmp_path):
    """Bit for bit, also where that run is gone; one that is elsewhere is known by its weights."""
    first, again, moved = (tmp_path / name for name in ("first", "again", "moved"))
    shutil.copytree(finished[0], first)
    straight = started(tmp_path / "straight", first)
    with pytest.raises(Interrupted):
        started(tmp_path / "run", first, data=killed_at(3))
    first.rename(moved)
    assert_equal(started(tmp_path / "run", first), straight)
    assert rows(tmp_path / "run") == rows(tmp_path / "straight")
    open_run(tmp_path / "run", start_from=moved)
    with pytest.raises(UsageError, match=r"another config \(start_from"):
        open_run(tmp_path / "run")
    finish(again, steps=2)
    with pytest.raises(UsageError, match=r"start_from.weights is '\w+' there and '\w+' here"):
        open_run(tmp_path / "run", start_from=again)


def test_stopped_before_the_first_checkpoint_it_starts_from_them_again(finished, tmp_path):
    folder = tmp_path / "run"
    run = open_run(folder, start_from=finished[0])
    run.initial(variables_of())
    run.begin()
    again = open_run(folder, start_from=finished[0])
    assert_equal(again.initial(variables_of()), best_of(*finished))


def test_images_that_the_first_run_saw_are_seen(tmp_path):
    """Another seed holds out people whom the first run was trained on."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3), np.uint8)
    images = of_arrays(pixels, np.repeat([f"p{n}" for n in range(8)], 2), name="people")
    splits = [
        divide_people(images, seed=seed, validation_people=2, test_people=2) for seed in (0, 1)
    ]
    held_out = [set(images.identities) - set(one.trained_on) for one in splits]
    both = len(set(splits[0].trained_on) & held_out[1])
    assert 0 < both < 4
    first = tmp_path / "first"
    trained(first, [(STEP, None)], splits=splits[0], steps=1)
    judge(open_run(first, splits=splits[0], steps=1))
    for seed, contaminated in ((0, ""), (1, f"CONTAMINATED: {first} was trained on {2 * both} im")):
        run = open_run(tmp_path / f"run{seed}", splits=splits[seed], steps=1, start_from=first)
        state = create_state(run.initial(variables_of()), OPTIMIZER, key=jax.random.key(4))
        fit(run, state, STEP, batches, evaluate=evaluate)
        protocol = judge(run)["protocol"]
        assert contaminated in protocol
        assert ("CONTAMINATED" in protocol) == bool(contaminated)
        test = VerificationTest(images=images, pairs=splits[seed].test)
        said, leaks_found = leaks(Described.read(tmp_path / f"run{seed}"), test, content=False)
        assert leaks_found == bool(contaminated), said
    shutil.copytree(first, tmp_path / "earlier")
    (tmp_path / "earlier" / "seen.json").unlink()
    run = open_run(tmp_path / "run", splits=splits[1], steps=1, start_from=tmp_path / "earlier")
    assert run.agreed["start_from"]["known"] is None
    seen, own = Seen.read(tmp_path / "run1"), Seen.of(splits[1])
    assert set(seen.trained) == {*own.trained, *Seen.read(first).trained} > set(own.trained)


# More steps


def test_extended_is_the_run_with_more_steps(tmp_path):
    folder, straight = tmp_path / "run", tmp_path / "straight"
    expected = finish(straight, steps=6, extendable=True)
    assert finish(folder, steps=4, extendable=True)["step"] <= 4
    assert finish(folder, steps=6, extendable=True)["step"] == expected["step"]
    one, other = (open_run(path, steps=6) for path in (folder, straight))
    assert_equal(one.checkpoints.restore(start_of())[0], other.checkpoints.restore(start_of())[0])
    one.close()
    other.close()
    assert rows(folder) == rows(straight)
    assert json.loads((folder / "config.json").read_text())["steps"] == 6
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"] == {**expected["config"]}
    assert [(row["start"], row["end"]) for row in manifest["sessions"]] == [(0, 4), (4, 6)]


def test_a_run_that_is_stopped_while_it_is_extended_can_be_used(tmp_path):
    """Each validation is better, so that the checkpoint of the manifest would not be kept."""
    folder, score = tmp_path / "run", iter(range(100))

    def better(variables):
        return {"score": float(next(score))}

    run = open_run(folder, steps=2, extendable=True)
    fit(run, start_of(), STEP, batches, evaluate=better)
    manifest = judge(run)
    before = best_of(folder, manifest)
    run = open_run(folder, steps=20, extendable=True)
    with pytest.raises(Interrupted):
        fit(run, start_of(), STEP, killed_at(9), evaluate=better)
    assert run.checkpoints.steps() == [2, 8, 9]
    run.close()
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert_equal(best_of(folder, manifest), before)


def test_where_the_schedule_ends_the_weights_are_offered(tmp_path, monkeypatch):
    folder = tmp_path / "my run"
    trained(folder, [(STEP, 2)], steps=6)
    with pytest.raises(UsageError, match=r"another config \(steps is 6 there and 8 here\)"):
        open_run(folder, steps=8)  # not finished: there are no weights to start from
    finish(folder, steps=6)
    monkeypatch.setattr("sys.orig_argv", ["python3", "-m", "mine", "--steps", "8"])
    with pytest.raises(UsageError) as refused:
        open_run(folder, steps=8)
    assert "is finished, and its learning rate falls to 0 at step 6" in str(refused.value)
    assert str(refused.value).endswith(
        f": python -m mine --steps 8 --start-from '{folder}' --run '{folder}-8' --steps 2"
    )
    with pytest.raises(UsageError, match=r"steps is 6 there and 8 here"):
        open_run(folder, steps=8, batch_size=16)
    for extendable in (False, True):
        with pytest.raises(UsageError, match=r"of 6 steps, and 4 were asked for: it cannot become"):
            open_run(folder, steps=4, extendable=extendable)


# Early stop


SCORES = {2: 1.0, 4: 3.0, 6: 2.0, 8: 3.0, 10: 4.0, 12: 0.0}
"""By step; with a patience of 2 training stops at 8, whose value is no better than that of 4."""


def impatient(folder, data=batches):
    run = open_run(folder, steps=12)
    state = fit(
        run,
        start_of(),
        STEP,
        data,
        evaluate=lambda variables: {"score": SCORES[run.step]},
        patience=2,
    )
    run.close()
    return run, state


def test_training_stops_without_a_better_validation(tmp_path, capsys):
    folder = tmp_path / "run"
    run, state = impatient(folder)
    assert (int(state.step), run.step) == (8, 8)
    manifest = judge(run)
    assert manifest["step"] == 4
    assert manifest["stopped"] == "at step 8 of 12: 2 validations without a better score"
    assert f"stopped {manifest['stopped']}" in capsys.readouterr().err
    # The same command judges it again, and does not train.
    run, again = impatient(folder, data=None)
    assert_equal(again, state)
    assert judge(run)["stopped"] == manifest["stopped"]
    assert [row["step"] for row in read_metrics(folder) if "score" in row] == [2, 4, 6, 8]


@pytest.mark.parametrize("stopped_at", [5, 6, 8])
def test_patience_of_a_run_that_was_interrupted(tmp_path, stopped_at):
    """Also at a validation that used some of the patience, and at the one that used all."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        impatient(folder, killed_at(stopped_at))
    run, state = impatient(folder)
    assert int(state.step) == 8
    assert judge(run)["stopped"].startswith("at step 8 of 12")


def test_a_run_that_goes_to_its_end_says_nothing_of_patience(finished, tmp_path):
    assert "stopped" not in finished[1]
    for options in ({"patience": 0}, {"patience": 1, "until": 3}):
        run = open_run(tmp_path / "run")
        with pytest.raises(UsageError, match=r"patience \d: must be at least 1, and given without"):
            fit(run, start_of(), STEP, batches, evaluate=evaluate, **options)


# Averages of the parameters


def test_averages_by_hand():
    """w = -1, -2, -3; decay 1/2: (1/4 + 2/2) / (3/4) = 5/3, (1/8 + 2/4 + 3/2) / (7/8) = 17/7."""
    optimizer = averaged(optax.sgd(1.0), decay=0.5)
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    for expected in (1.0, 5 / 3, 17 / 7):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(state.average["w"], -expected, rtol=1e-6)
    # A long memory begins without a bias, too.
    optimizer = averaged(optax.sgd(1.0), decay=0.9999)
    _, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
    np.testing.assert_allclose(state.average["w"], params["w"] - 1, rtol=1e-6)
    for decay in (0.0, 1.0, np.nan):
        with pytest.raises(UsageError, match="decay"):
            averaged(optax.sgd(1.0), decay=decay)


def test_averages_are_evaluated_and_saved_and_resumed(tmp_path):
    optimizer = averaged(OPTIMIZER, decay=0.5)
    step, seen = train_step(optimizer=optimizer), []

    def noted(variables):
        seen.append(jax.device_get(variables))
        return evaluate(variables)

    def train(folder, data=batches):
        run = open_run(folder)
        try:
            return fit(run, start_of(optimizer), step, data, evaluate=noted)
        finally:
            run.close()

    state = jax.device_get(train(tmp_path / "straight"))
    average = state.opt_state.average
    assert not np.array_equal(average["first"]["kernel"], state.params["first"]["kernel"])
    assert_equal(seen[-1], {"params": average, **state.model_state})
    saved = jax.device_get(load_variables(tmp_path / "straight" / "checkpoints", 6))
    assert_equal(saved, seen[-1])
    # The parameters are those of training without averages.
    plain = trained(tmp_path / "plain", [(STEP, None)])
    assert_equal(state.params, plain.params)
    with pytest.raises(Interrupted):
        train(tmp_path / "stopped", killed_at(3))
    assert_equal(train(tmp_path / "stopped"), state)
