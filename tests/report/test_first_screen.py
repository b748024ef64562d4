"""How good, how sure, against what: what a page opens with, and the commands that it ends with."""

import inspect
import shlex
from pathlib import Path

import numpy as np
import pytest

from siamjax.__main__ import COMMANDS, command
from siamjax.inference.judging import Judgement, judge_queries
from siamjax.report.first_screen import first_screen
from siamjax.report.next_steps import next_steps


def judged(better=0.2, people=40):
    base = np.random.default_rng(0).random(people) * 0.5
    values = {"network": {"rank1": base + better}, "pixels": {"rank1": base}}
    return judge_queries(
        values, np.arange(people), counts={key: {"gallery": people} for key in values}
    )


def test_it_answers_three_questions():
    one = judged()
    found = first_screen(one, "rank1", seed=3)
    value = one.results["network"]["rank1"]
    low, high = one.intervals["network"]["rank1"]
    assert (found["measure"], found["value"]) == ("rank-1", f"{value:.4f}")
    assert found["interval"] == f"{low:.3f} to {high:.3f}"
    assert (found["over"], found["few"], found["seed"]) == ("40 people, 40 queries", [], 3)
    assert (found["baseline"], found["difference"]) == ("pixels", "+0.2000")
    assert found["difference_interval"] == "[+0.2000, +0.2000]"
    assert found["verdict"].startswith("Clearly better")
    assert "first answer is right" in found["meaning"]
    assert first_screen(judged(people=9), "rank1", seed=0)["few"]


def test_bars_lie_where_their_values_are_on_the_axis():
    one = judged()
    found = first_screen(one, "rank1", seed=0)
    places, texts = zip(*found["ticks"], strict=True)
    assert (places[0], places[-1]) == (0, 100)
    start, stop = float(texts[0]), float(texts[-1])
    for bar in found["bars"]:
        value = one.results[bar["name"]]["rank1"]
        low, high = one.intervals[bar["name"]]["rank1"]
        at = [100 * (end - start) / (stop - start) for end in (value, low, high)]
        assert [bar["dot"], bar["left"], bar["left"] + bar["width"]] == pytest.approx(at, abs=0.02)
        assert 0 <= bar["left"] <= bar["dot"] <= bar["left"] + bar["width"] <= 100
    for place, text in found["ticks"]:
        assert start + place / 100 * (stop - start) == pytest.approx(float(text), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3.0, 1e6, 1e-9])
def test_one_number_without_interval_or_baseline_has_an_axis(value):
    found = first_screen(Judgement(results={"network": {"own": value}}), "own", seed=0)
    assert found["interval"] is found["baseline"] is found["difference"] is None
    assert len(found["ticks"]) >= 2
    assert all(0 <= bar["dot"] <= 100 for bar in found["bars"])


@pytest.mark.parametrize("trust", [[], ["own", "own.parts"]])
@pytest.mark.parametrize("task", ["verification", "reid", "retrieval"])
def test_the_commands_that_come_next_exist(task, trust):
    folder = Path("my runs/it's")
    steps = next_steps(folder, task, trust=trust)
    assert steps
    for why, lines in steps:
        assert why.endswith(".")
        for line in lines:
            python, module, siamjax, name, *words = shlex.split(line)
            assert (python, module, siamjax) == ("python", "-m", "siamjax")
            options = inspect.signature(command(COMMANDS[name])).parameters
            given = [word.removeprefix("--") for word in words if word.startswith("--")]
            assert set(given) <= set(options), line
            assert words[len(words) - 3 :] == ["--trust", *trust] if trust else "trust" not in given
            if "run" in given:
                assert words[words.index("--run") + 1] == str(folder)
    assert next_steps(folder, "") == []
