"""``fit`` on a network of two layers: stages, stops, and what evaluate and batches may be."""

import contextlib
import gzip
import itertools
import json
import math
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import (
    OPTIMIZER,
    SHARES,
    assert_equal,
    batches,
    evaluate,
    killed_at,
    open_run,
    rows,
    start_of,
    train_step,
    trained,
)

from siamjax import processes
from siamjax.errors import Interrupted, UsageError
from siamjax.metrics import Mean
from siamjax.parallel import data_parallel
from siamjax.training import fit, make_train_step
from siamjax.training.loop import _resumed, _Signals
from siamjax.training.trace import Trace
from siamjax.training.writers import read_metrics

WHOLE, FROZEN = train_step(frozen=False), train_step(frozen=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """One call of fit."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    return folder, trained(folder, [(WHOLE, None)])


TWO_STAGES = [(FROZEN, 3), (WHOLE, None)]


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "stages"
    return folder, trained(folder, TWO_STAGES)


def test_a_run_is_logged_validated_and_saved(straight):
    folder, state = straight
    assert int(state.step) == 6
    assert [row["step"] for row in rows(folder) if "loss" in row] == [1, 2, 3, 4, 5, 6]
    scores = {row["step"]: row["score"] for row in rows(folder) if "score" in row}
    assert list(scores) == [2, 4, 6]
    assert scores[6] == evaluate(state.variables)["score"]
    run = open_run(folder)
    best = max(scores, key=scores.get)
    assert set(run.checkpoints.steps()) == {4, 6, best}
    variables = run.best_variables()
    assert run.best_step == best
    assert evaluate(variables)["score"] == scores[best]


@pytest.mark.parametrize("until", [2, 3], ids=["at an evaluation", "between evaluations"])
def test_two_calls_are_one(straight, tmp_path, until):
    state = trained(tmp_path / "run", [(WHOLE, until), (WHOLE, None)])
    assert_equal(state, straight[1])
    assert rows(tmp_path / "run") == rows(straight[0])


def test_until_stops_there_and_what_is_done_is_skipped(straight, tmp_path):
    run, state = open_run(tmp_path / "run"), start_of()
    starts = []

    def noted(start):
        starts.append(start)
        return batches(start)

    state = fit(run, state, WHOLE, noted, evaluate=evaluate, until=3)
    assert (int(state.step), run.step, starts) == (3, 3, [0])
    assert fit(run, state, WHOLE, noted, evaluate=evaluate, until=2) is state
    assert fit(run, state, WHOLE, noted, evaluate=evaluate, until=3) is state
    state = fit(run, state, WHOLE, noted, evaluate=evaluate, until=6)
    assert fit(run, state, WHOLE, noted, evaluate=evaluate) is state
    assert starts == [0, 3]
    assert_equal(state, straight[1])
    run.close()


def test_frozen_layers_are_let_go_by_the_second_call(straight, two_stages, tmp_path):
    start = jax.device_get(start_of().params)
    frozen = trained(tmp_path / "run", TWO_STAGES[:1]).params
    np.testing.assert_array_equal(frozen["first"]["kernel"], start["first"]["kernel"])
    assert not np.array_equal(frozen["second"]["kernel"], start["second"]["kernel"])
    after = two_stages[1].params
    assert not np.array_equal(after["first"]["kernel"], start["first"]["kernel"])
    assert not np.array_equal(after["first"]["kernel"], straight[1].params["first"]["kernel"])


@pytest.mark.parametrize("stopped_at", [1, 2, 3, 4, 5])
def test_killed_in_either_stage_and_resumed_is_straight(two_stages, tmp_path, capsys, stopped_at):
    """Also at the last step of the first stage (3), and at an evaluation (2 and 4)."""
    folder = tmp_path / "run"
    with pytest.raises(Interrupted, match="143") as stop:
        trained(folder, TWO_STAGES, killed_at(stopped_at))
    assert f"SIGTERM: saved after step {stopped_at} of 6" in stop.value.message
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    capsys.readouterr()
    state = trained(folder, TWO_STAGES)
    assert f"resumed at step {stopped_at} of 6" in capsys.readouterr().err
    assert_equal(state, two_stages[1])
    assert rows(folder) == rows(two_stages[0])
    one, other = (open_run(path) for path in (folder, two_stages[0]))
    assert_equal(one.checkpoints.load(6), other.checkpoints.load(6))
    assert_equal(one.best_variables(), other.best_variables())
    assert one.best_step == other.best_step
    other.close()


def test_killed_between_two_rows(straight, tmp_path):
    """The steps since the last row are written, as their exact mean; none stands twice."""
    folder = tmp_path / "run"
    stages = [(WHOLE, None)]
    with pytest.raises(Interrupted):
        trained(folder, stages, killed_at(3), log_every=2, evaluate_every=6)
    state = trained(folder, stages, log_every=2, evaluate_every=6)
    assert_equal(state.params, straight[1].params)
    each = {row["step"]: row["loss"] for row in rows(straight[0]) if "loss" in row}
    logged = {row["step"]: row["loss"] for row in rows(folder) if "loss" in row}
    expected = {2: (each[1] + each[2]) / 2, 3: each[3], 4: each[4], 6: (each[5] + each[6]) / 2}
    assert logged == pytest.approx(expected, rel=1e-6)
    assert [row["step"] for row in rows(folder) if "loss" in row] == list(expected)


def read_sessions(folder):
    lines = (folder / "sessions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_sessions_are_noted(two_stages, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        trained(folder, [(WHOLE, None)], killed_at(3))
    trained(folder, [(WHOLE, None)])
    sessions = read_sessions(folder)
    assert [(one["start"], one["end"]) for one in sessions] == [(0, 3), (3, 6)]
    assert not any("skipped_steps" in one for one in sessions)


@pytest.mark.parametrize("seconds", [(0.0, 0.0), (0.2, 0.1), (0.0, 0.03)], ids=str)
def test_a_signal_to_one_of_two_processes_stops_both_after_one_step(monkeypatch, seconds):
    """Two threads in place of processes, whose steps take so long; the second gets the signal."""
    barrier, given = threading.Barrier(2), threading.local()
    told = [None, None]

    def exchange(value):
        told[given.index] = value
        barrier.wait(10)
        found = list(told)
        barrier.wait(10)
        return found

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "exchange", exchange)

    def train(index):
        given.index, received = index, []
        signals = _Signals(received, 3)
        for done in range(4, 204):
            time.sleep(seconds[index])
            if index and done == 6:
                received.append(signal.SIGTERM)
            if signum := signals.agreed(done, now=done == 203):
                return done, signum
        return None

    with ThreadPoolExecutor(2) as pool:
        (first, _), second = stops = list(pool.map(train, (0, 1)))
    assert stops == [(first, signal.SIGTERM), second] == [second, second]
    # At once where steps are slow, within half a second or so where they are not, and 50 steps.
    assert 6 <= first <= {0.0: 54, 0.2: 8, 0.03: 24}[max(seconds)]


def test_batches_that_cannot_be_divided(tmp_path, monkeypatch):
    run = open_run(tmp_path / "run")
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "on_first", lambda function: function())
    with pytest.raises(
        UsageError, match=r"give them a method divided\(index, count\) that returns"
    ):
        fit(run, start_of(), WHOLE, batches, evaluate=evaluate)
    run.close()


def test_where_the_time_goes(tmp_path):
    """Batches that take 50 ms, and a step that waits 25 ms in the device."""

    def slow(start):
        for batch in batches(start):
            time.sleep(0.05)
            yield batch

    def wait(x):
        time.sleep(0.025)
        return x

    def loss_fn(params, model_state, batch, key):
        x = jax.pure_callback(wait, jax.ShapeDtypeStruct((), np.float32), jnp.float32(1))
        return Mean.of(x * batch["x"][:, 0] * params["second"]["bias"]), (model_state, {})

    step = data_parallel(make_train_step(loss_fn, OPTIMIZER))
    trained(tmp_path / "run", [(step, None)], slow, log_every=3, evaluate_every=3)
    row = [row for row in read_metrics(tmp_path / "run") if "loss" in row][-1]  # not the first step
    shares = [row[name] for name in SHARES]
    assert sum(shares) == pytest.approx(100)
    step_seconds = 8 / row["examples_per_second"]
    waited, device, host = (share / 100 * step_seconds for share in shares)
    assert waited > 0.05
    assert device > 0.01
    assert host >= 0


def test_steps_are_traced(straight, tmp_path, capsys):
    """Perfetto opens the file: it has the steps that were asked for, with what they consist of."""
    folder = tmp_path / "run"
    assert_equal(trained(folder, [(WHOLE, None)], profile=2), straight[1])
    assert f"steps from 4 on are traced in {folder / 'profile'}: " in capsys.readouterr().err
    (path,) = folder.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    steps = [int(one["args"]["step_num"]) for one in events if one.get("name") == "train"]
    assert sorted(steps) == [3, 4]
    assert any("wait_for" in one.get("name", "") for one in events)
    (for_tensorboard,) = path.parent.glob("*.xplane.pb")
    assert for_tensorboard.stat().st_size > 1000


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, []), (2, [13, 14]), (17, range(13, 30)), (18, range(12, 30)), (99, range(10, 30))],
)
def test_which_steps_are_traced(monkeypatch, tmp_path, steps, expected):
    """Not the first three of those that this start makes, 10 to 29, unless there are no others."""
    running = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: running.append(True))
    monkeypatch.setattr(jax.profiler, "stop_trace", running.pop)
    trace, traced = Trace(tmp_path, begin=10, end=30, steps=steps), []
    for number in range(10, 30):
        if trace.turns(number):
            trace.turn()
        if running:
            traced.append(number)
    trace.close()
    assert not running
    assert traced == list(expected)


def test_no_trace_unless_asked_for(straight):
    assert not (straight[0] / "profile").exists()


@pytest.mark.parametrize("until", [0, -1, 7])
def test_until_out_of_range(tmp_path, until):
    run = open_run(tmp_path / "run")
    with pytest.raises(UsageError, match=rf"until {until}: must be after step 0 .* the 6 of the"):
        fit(run, start_of(), WHOLE, batches, evaluate=evaluate, until=until)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "found", [{}, {"another": 1.0}, {"score": None}, {"score": math.nan}], ids=str
)
def test_evaluate_without_the_metric_that_chooses(straight, tmp_path, found):
    """What was trained is saved; with evaluate mended the run goes on there."""
    folder = tmp_path / "run"
    run = open_run(folder)
    with pytest.raises(
        UsageError, match=r"evaluate returned .* without a number for score.* step 2 was saved"
    ):
        fit(run, start_of(), WHOLE, batches, evaluate=lambda variables: found)
    assert run.checkpoints.steps() == [2]
    run.close()
    assert_equal(trained(folder, [(WHOLE, None)]), straight[1])


def test_a_value_that_cannot_be_measured_is_left_out(tmp_path):
    def some(variables):
        return {"recall_at_10": None, **evaluate(variables), "recall_at_1": np.float32(0.5)}

    run = open_run(tmp_path / "run")
    fit(run, start_of(), WHOLE, batches, evaluate=some, until=2)
    run.close()
    validated = [row for row in rows(tmp_path / "run") if "score" in row]
    assert [set(row) for row in validated] == [{"step", "score", "recall_at_1"}]
    assert validated[0]["recall_at_1"] == 0.5


class Named:
    """Batches that say what their examples are."""

    unit = "pairs"

    def __init__(self, make):
        self._make = make

    def __call__(self, start):
        return self._make(start)

    def describe(self, step):
        return f"pairs {step}"


def with_nan(start):
    """The fourth batch, of number 3, is damaged."""
    for number, batch in enumerate(batches(start), start=start):
        yield {**batch, "y": batch["y"] * np.nan} if number == 3 else batch


@pytest.mark.parametrize("named", [False, True], ids=["plain function", "with names"])
def test_batches_may_name_their_examples(tmp_path, capsys, named):
    run = open_run(tmp_path / "run")
    with pytest.raises(UsageError) as error:
        fit(
            run,
            start_of(),
            WHOLE,
            Named(with_nan) if named else with_nan,
            evaluate=evaluate,
        )
    run.close()
    shown = " on the batch pairs 3" if named else ""
    expected = (
        f"the loss of step 4 is nan{shown}; the last good checkpoint is that of step 2; lower"
    )
    assert str(error.value).startswith(expected)
    unit = "pairs" if named else "examples"
    logged = [row for row in read_metrics(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in logged] == [1, 2, 3]
    assert all(f"{unit}_per_second" in row for row in logged)


@pytest.mark.parametrize("number", [0, 3, 4])
def test_what_was_trained_is_saved_where_a_batch_cannot_be_read(straight, tmp_path, number):
    """Also right after a validation, which has saved it, and at the first batch."""

    def broken(start):
        yield from itertools.islice(batches(start), number)
        raise UsageError("image 7 cannot be read")

    folder = tmp_path / "run"
    with pytest.raises(UsageError, match=r"^image 7 cannot be read$"):
        trained(folder, [(WHOLE, None)], broken, log_every=2)
    with contextlib.closing(open_run(folder, log_every=2)) as run:
        assert max(run.checkpoints.steps(), default=0) == number
    logged = [row["step"] for row in rows(folder) if "loss" in row]
    assert logged == {0: [], 3: [2, 3], 4: [2, 4]}[number]
    assert_equal(trained(folder, [(WHOLE, None)], log_every=2), straight[1])


def only_gradient_nan(number):
    """Batches of which that one (from 0) has a finite loss with a gradient that is not."""

    def made(start):
        for step, batch in enumerate(batches(start), start=start):
            yield {**batch, "bad": np.full(8, step == number)}

    return Named(made)


def step_that(nonfinite):
    def loss_fn(params, model_state, batch, key):
        value = batch["x"] @ params["first"]["kernel"][:, 0]
        # The square root has the slope infinity at 0, which the factor 0 makes NaN.
        value = jnp.where(
            batch["bad"],
            jnp.sqrt(jnp.where(batch["bad"], 0 * value, 1)),
            jnp.square(value - batch["y"]),
        )
        return Mean.of(value), (model_state, {})

    return data_parallel(make_train_step(loss_fn, OPTIMIZER, nonfinite=nonfinite))


def test_a_gradient_that_is_not_finite_stops(tmp_path):
    with pytest.raises(UsageError) as error:
        trained(tmp_path / "run", [(step_that("stop"), None)], only_gradient_nan(3))
    assert str(error.value).startswith(
        "a gradient of step 4 is not finite on the batch pairs 3; the last good checkpoint is that "
        "of step 2; lower the learning rate, look at these images, or skip such steps with "
        "--nonfinite skip"
    )
    assert [row["step"] for row in rows(tmp_path / "run") if "loss" in row] == [1, 2, 3]


def test_a_stopped_run_goes_on_and_skips_that_step(tmp_path, capsys):
    """What is after it is as if that batch had not been; it is counted wherever one looks."""
    folder, stages = tmp_path / "run", [(step_that("skip"), None)]
    with pytest.raises(UsageError, match="a gradient of step 4 is not finite"):
        trained(folder, [(step_that("stop"), None)], only_gradient_nan(3), log_every=2)
    capsys.readouterr()
    options = {"nonfinite": "skip", "log_every": 2}
    state = trained(folder, stages, only_gradient_nan(3), **options)
    err = capsys.readouterr().err
    assert err.count("warning: ") == 2
    assert "the loss or a gradient of step 4 is not finite on the batch pairs 3; the step" in err
    assert "warning: skipped 1 of 4 steps, whose loss or gradients were not finite" in err
    found = {row["step"]: row for row in rows(folder) if "loss" in row}
    assert [found[step].get("skipped_steps") for step in (2, 4, 6)] == [None, 1, 0]
    assert read_sessions(folder)[-1]["skipped_steps"] == 1
    assert int(state.step) == 6
    assert int(state.opt_state[0].count) == 5  # updates of Adam

    # The same without that batch: five batches, and the row of steps 3 and 4 is that of step 3.
    def left_out(start):
        for number, batch in enumerate(only_gradient_nan(None)(0)):
            if number != 3 and number - (number > 3) >= start:
                yield batch

    other = trained(tmp_path / "other", stages, left_out, steps=5, evaluate_every=5, **options)
    assert_equal(state.params, other.params)
    assert_equal(state.opt_state, other.opt_state)


def test_a_step_that_cannot_skip_is_said(tmp_path):
    with pytest.raises(UsageError, match="--nonfinite skip: this experiment's step skips nothing"):
        trained(tmp_path / "run", [(WHOLE, None)], nonfinite="skip")


@pytest.mark.parametrize("names", [(), ("mine", "another")], ids=["none", "own"])
def test_a_loss_with_any_metrics_or_none_is_logged_as_exact_means(tmp_path, capsys, names):
    """The loss of step s (from 0) is s; with weights 1 to 4 the rows are means of two steps."""

    def loss_fn(params, model_state, batch, key):
        number = batch["number"] + 0.0 * params["second"]["bias"]
        loss = Mean.of(number, batch["weight"])
        factors = dict(zip(names, (2.0, 5.0), strict=False))
        own = {name: Mean.of(factor * number, batch["weight"]) for name, factor in factors.items()}
        return loss, (model_state, own)

    def numbered(start):
        for step in range(start, 4):
            weight = np.full(8, step + 1, np.float32)
            yield {"number": np.full(8, step, np.float32), "weight": weight}

    run = open_run(tmp_path / "run", steps=4, log_every=2, evaluate_every=4)
    step = data_parallel(make_train_step(loss_fn, OPTIMIZER))
    fit(run, start_of(), step, numbered, evaluate=evaluate)
    run.close()
    logged = [row for row in rows(tmp_path / "run") if "loss" in row]
    first, second = (0 * 1 + 1 * 2) / 3, (2 * 3 + 3 * 4) / 7
    assert [row["step"] for row in logged] == [2, 4]
    for row, mean in zip(logged, (first, second), strict=True):
        expected = {"loss": mean, **dict(zip(names, (2 * mean, 5 * mean), strict=False))}
        assert row.keys() == {"step", *expected}
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, rel=1e-6), name
    assert "warning" not in capsys.readouterr().err  # nothing is known of such metrics


def test_a_collapse_is_said_once(tmp_path, capsys):
    def loss_fn(params, model_state, batch, key):
        one = jnp.ones(len(batch["x"]))
        found = {"embedding_norm": Mean.of(one), "embedding_spread": Mean.of(0 * one)}
        return Mean.of(one * params["second"]["bias"]), (model_state, found)

    run = open_run(tmp_path / "run")
    step = data_parallel(make_train_step(loss_fn, OPTIMIZER))
    fit(run, start_of(), step, batches, evaluate=evaluate)
    run.close()
    err = capsys.readouterr().err
    assert err.count("the network has collapsed") == 1
    assert "warning: step 1: the network has collapsed" in err


@pytest.mark.parametrize("step", ["NaN", "-1", "0.5", "null", "1" + "0" * 400])
def test_rows_of_metrics_are_of_steps_that_can_be(step, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "auc": NaN}}\n{{"step": {step}}}\n')
    if step.endswith("00"):
        assert read_metrics(tmp_path)[1]["step"] == int(step)
        return
    with pytest.raises(UsageError, match=r"metrics\.jsonl, row 2: no step"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "auc": NaN, "loss": 0.5}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_a_full_disk_ends_the_training_only_at_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    run, full = open_run(tmp_path / "run"), {2, 6}
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(_):
        return usage._replace(free=0) if run.step in full else usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(UsageError, match=r"step 6 needs .* make space, and run the same command"):
        fit(run, start_of(), WHOLE, batches, evaluate=evaluate)
    assert "warning: " in capsys.readouterr().err
    assert run.checkpoints.steps() == [4]
    full.clear()
    run.close()
    state = fit(open_run(tmp_path / "run"), start_of(), WHOLE, batches, evaluate=evaluate)
    assert (int(state.step), [row["step"] for row in rows(tmp_path / "run") if "score" in row]) == (
        6,
        [2, 4, 6],
    )


def test_processes_that_begin_with_different_parameters_are_refused(monkeypatch):
    """Another processor may round what an initialiser computes in another way."""
    new = SimpleNamespace(begun=False, begin=lambda: False)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "exchange", lambda value: [value, value])
    assert _resumed(new, start_of()) is not None
    monkeypatch.setattr(processes, "exchange", lambda value: [value, value[::-1]])
    with pytest.raises(UsageError, match="begin with different parameters"):
        _resumed(new, start_of())
