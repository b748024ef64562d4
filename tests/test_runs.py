"""The list of a folder's runs, from their JSON files alone."""

import json
import os
import re
import subprocess
import sys

import pytest

from siamjax.aligned import duration, measured, size_on_disk, text_table
from siamjax.commands.runs import runs
from siamjax.errors import UsageError
from siamjax.runs import FORMAT, differences, list_runs

CONFIG = {"format": 2, "experiment": "lfw_bce", "seed": 3, "steps": 400, "data": "orl_faces"}
MANIFEST = {
    "format": 2,
    "network": {},
    "step": 200,
    "best": "validation_auc",
    "data": "orl_faces",
    "config": CONFIG,
    "results": {
        "network": {"eer": 0.25, "auc": 0.75, "pairs_same": 4},
        "raw pixels": {"eer": 0.5, "auc": 0.5},
    },
    "intervals": {"network": {"auc": [0.625, 0.875]}},
    "sessions": [{"seconds": 100.5}, {"seconds": 20}],
}


def make(folder, *, manifest=None, config=None, steps=(200,)):
    """A run's folder; a manifest or a config may be a text that is no JSON."""
    for step in steps:
        (folder / "checkpoints" / str(step)).mkdir(parents=True)
        (folder / "checkpoints" / str(step) / "array").write_bytes(bytes(5000))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("manifest.json", manifest), ("config.json", config)):
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text)
    return folder


def only(folder):
    (found,) = list_runs(folder)
    return found


def test_a_finished_run(tmp_path):
    folder = make(tmp_path / "a", manifest=MANIFEST, config=CONFIG, steps=(200, 400))
    found = only(tmp_path)
    assert found == only(folder)  # the folder may be a run itself
    assert (found.run, found.state, found.why) == (folder, "finished", "")
    assert (found.experiment, found.data, found.seed) == ("lfw_bce", "orl_faces", 3)
    assert (found.step, found.steps, found.chosen_by) == (200, 400, "validation_auc")
    assert (found.measure, found.value, found.interval) == ("auc", 0.75, [0.625, 0.875])
    assert found.seconds == 120.5
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert found.bytes == sum(path.stat().st_size for path in files) > 10_000


def test_a_run_of_an_earlier_version(tmp_path):
    """Format 1 had neither results that are named here, nor sessions, nor intervals."""
    make(tmp_path / "a", manifest={"network": {}, "step": 200})
    found = only(tmp_path)
    assert (found.state, found.value, found.seconds, found.seed) == ("finished", None, None, None)
    make(tmp_path / "b", manifest={**MANIFEST, "best": "validation_f1", "intervals": {}})
    _, other = list_runs(tmp_path)
    assert (other.measure, other.value, other.interval) == ("eer", 0.25, None)  # the first there is


@pytest.mark.parametrize(
    ("files", "state", "why"),
    [
        ({"config": CONFIG, "steps": (100, 300)}, "unfinished", "step 300 of 400"),
        ({"config": {"format": 2}, "steps": ()}, "unfinished", "step 0"),
        ({"config": {"format": FORMAT + 1}}, "of a later version", ""),
        ({"manifest": {"format": FORMAT + 1, "network": 7}}, "of a later version", ""),
        ({"manifest": MANIFEST, "steps": (100,)}, "damaged", "the checkpoint of step 200 is gone"),
        ({"manifest": "{"}, "damaged", "manifest.json: not JSON"),
        ({"manifest": "[]"}, "damaged", "manifest.json: "),
        ({"config": "\x00"}, "damaged", "config.json: not JSON"),
        ({"manifest": {**MANIFEST, "step": -1}}, "damaged", "manifest.json: .*step"),
        ({"manifest": {**MANIFEST, "results": [1]}}, "damaged", "manifest.json: .*results"),
        (
            {"manifest": {**MANIFEST, "intervals": {"network": {"auc": [1]}}}},
            "damaged",
            "manifest.json: .*length",
        ),
        ({"manifest": {"format": 1, "rows": 3}}, "not a run", ""),  # an index
        ({"steps": (1,)}, "not a run", ""),
    ],
    ids=range(13),
)
def test_what_cannot_be_used_is_listed_by_its_state(tmp_path, files, state, why, capsys):
    make(tmp_path / "a\x1b", **files)
    found = only(tmp_path)
    assert found.state == state
    assert re.match(why or "$", found.why)
    runs(tmp_path)
    said = capsys.readouterr().out
    assert state in said
    assert "\x1b" not in said


def test_what_is_no_readable_file(tmp_path):
    (tmp_path / "a" / "manifest.json").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "config.json")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "manifest.json").symlink_to("nowhere")
    (tmp_path / "d").symlink_to(tmp_path)  # a circle
    found = {one.run.name: one.state for one in list_runs(tmp_path) if one.run.parent == tmp_path}
    assert found == {"a": "damaged", "b": "damaged", "c": "damaged"}


def test_order_and_nesting(tmp_path):
    """The best of an experiment first; folders of runs are looked into, one level deep."""

    def with_value(value):
        return {**MANIFEST, "results": {"network": {"auc": value}}}

    make(tmp_path / "low", manifest=with_value(0.25))
    make(tmp_path / "sweep" / "high", manifest=with_value(0.5))
    make(tmp_path / "sweep" / "none", manifest=with_value(None))
    make(tmp_path / "sweep" / "open", config=CONFIG)
    make(tmp_path / "emoji", manifest={**with_value(0.0), "data": "emoji"})
    make(tmp_path / "photos" / "a" / "deep", manifest=MANIFEST)
    (tmp_path / ".git").mkdir()
    (tmp_path / "notes.txt").touch()
    names = [str(one.run.relative_to(tmp_path)) for one in list_runs(tmp_path)]
    assert names == ["emoji", "sweep/high", "low", "sweep/none", "sweep/open", "photos"]


def test_no_runs(tmp_path, capsys):
    assert list_runs(tmp_path) == []
    runs(tmp_path)
    assert "no runs" in capsys.readouterr().out
    for wrong in ("missing", "file", "\0"):
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=r"give the folder that the runs are in"):
            list_runs(tmp_path / wrong)


def test_the_command_prints_a_table_of_100_columns(tmp_path, capsys):
    for seed in (0, 1):
        name = "visual_search_triplet-emoji" + f"-seed{seed}" * (seed > 0)
        manifest = {**MANIFEST, "best": "validation_recall_at_1", "data": "emoji"}
        manifest["results"] = {"network": {"recall_at_1": 0.6875 + seed / 16}}
        manifest["intervals"] = {"network": {"recall_at_1": [0.5, 0.8125]}}
        make(tmp_path / name, manifest={**manifest, "config": {**CONFIG, "seed": seed}})
    make(tmp_path / "part", config=CONFIG)
    runs(tmp_path)
    out, err = capsys.readouterr()
    said = out.splitlines()
    assert said[:2] == [
        "lfw_bce on emoji; checkpoints chosen by validation_recall_at_1",
        "                                   seed  step     recall_at_1              training  disk",
    ]
    assert said[2].split("  ")[0] == "visual_search_triplet-emoji-seed1"
    assert "200/400  0.7500 [0.5000, 0.8125]  2.0 min" in said[2]
    assert any("part" in line and "unfinished: step 200 of 400" in line for line in said)
    assert max(map(len, said)) <= 100
    both = [str(tmp_path / f"visual_search_triplet-emoji{end}") for end in ("-seed1", "")]
    assert err.strip() == f"next: python -m siamjax compare {both[0]} {both[1]}"


def test_the_next_command_compares_runs_of_one_seed(tmp_path, capsys):
    """Runs of two seeds may have been tested on different people."""
    for name, seed, value in (("a", 0, 0.9), ("b", 1, 0.8), ("c", 1, 0.7)):
        results = {"network": {"auc": value}}
        config = {**CONFIG, "seed": seed}
        make(tmp_path / name, manifest={**MANIFEST, "results": results, "config": config})
    runs(tmp_path)
    assert capsys.readouterr().err.endswith(f"compare {tmp_path / 'b'} {tmp_path / 'c'}\n")
    runs(tmp_path / "a")
    assert capsys.readouterr().err.endswith(f"siamjax evaluate --run {tmp_path / 'a'}\n")


def test_the_next_command_names_the_modules_to_trust(tmp_path, capsys):
    for name in ("one", "two"):
        network = {"class": f"own.{name}:Net", "fields": {"x": {"import": "jax.nn:relu"}}}
        make(tmp_path / name, manifest={**MANIFEST, "network": network})
    runs(tmp_path)
    assert capsys.readouterr().err.endswith(" --trust own.one own.two\n")
    runs(tmp_path / "two")
    assert capsys.readouterr().err.endswith(f"--run {tmp_path / 'two'} --trust own.two\n")


def test_json_has_the_keys_of_the_page_of_commands(tmp_path, capsys):
    make(tmp_path / "a", manifest=MANIFEST, config=CONFIG)
    make(tmp_path / "b")
    runs(tmp_path, json=True)
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["folder", "runs"]
    one, other = told["runs"]
    assert list(one) == list(other)
    assert (one["run"], one["value"], one["interval"]) == (
        str(tmp_path / "a"),
        0.75,
        [0.625, 0.875],
    )
    assert (other["state"], other["value"], other["bytes"]) == ("not a run", None, None)


def test_the_list_needs_no_jax(tmp_path):
    make(tmp_path / "a", manifest=MANIFEST)
    code = (
        "import sys; from pathlib import Path; from siamjax.commands.runs import runs\n"
        f"runs(Path({str(tmp_path)!r}))\n"
        "assert not {'jax', 'flax', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_differences():
    network = {"class": "a:B", "fields": {"width": 1, "head": {"class": "a:C", "fields": {}}}}
    wider = {"class": "a:B", "fields": {"width": 2, "head": {"class": "a:D", "fields": {}}}}
    first = {"seed": 0, "margin": 1.0, "network": network}
    second = {"seed": 0, "margin": 0.5, "network": wider, "extra": None, "more": 1}
    assert differences([first, second, first]) == {
        "margin": [1.0, 0.5, 1.0],
        "network.width": [1, 2, 1],
        "network.head.class": ["a:C", "a:D", "a:C"],
        "more": [None, 1, None],
    }
    assert differences([first]) == differences([first, dict(first)]) == {}


def test_numbers_as_text():
    assert [duration(s) for s in (0, 99, 99.6, 100, 5996, 5998, 9000)] == [
        "0 s",
        "99 s",
        "1.7 min",
        "1.7 min",
        "99.9 min",
        "1.7 h",
        "2.5 h",
    ]
    sizes = [0, 999, 1000, 9940, 9960, 999_499, 999_501, 2.5e9, 5e15]
    assert [size_on_disk(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "9.9 kB",
        "10 kB",
        "999 kB",
        "1.0 MB",
        "2.5 GB",
        "5000 TB",
    ]
    assert measured(0.98719, (0.961, 0.9951)) == "0.9872 [0.9610, 0.9951]"
    assert [measured(v, None) for v in (None, 4500, 0.5)] == ["not measurable", "4,500", "0.5000"]
    assert text_table(["b"], [("name", ["1"]), ("x\n", ["22"])]) == ("      b\nname  1\nx\\n   22")
