"""What to do with a finished run: commands to paste, by task."""

import shlex
from collections.abc import Sequence
from pathlib import Path

_CALIBRATE = (
    "Set a threshold for the rate of false matches that you can bear, on people of your own (a "
    "folder with a sub-folder for each).",
    "calibrate --run {run} --data my_people/",
)
_EVALUATE = ("Measure it on other data.", "evaluate --run {run} --data my_people/")
_STEPS = {
    "verification": (
        _CALIBRATE,
        ("Compare two images.", "verify first.jpg second.jpg --run {run}"),
        _EVALUATE,
        (
            "Search for a person among many, and be told if nobody is found.",
            "embed my_gallery/ --run {run} --out index/",
            "calibrate --run {run} --data my_people/ --index index/",
            "search somebody.jpg --index index/ --out found.html",
        ),
    ),
    "reid": (
        ("Rank a gallery for a query.", "rank query.jpg --gallery my_gallery/ --run {run}"),
        _CALIBRATE,
        _EVALUATE,
    ),
    "retrieval": (
        (
            "Search a catalogue.",
            "embed my_catalogue/ --run {run} --out index/",
            "search query.jpg --index index/ --out found.html",
        ),
        (
            "Be told if a search finds nothing: a threshold, set on other items (a folder with a "
            "sub-folder for each).",
            "calibrate --run {run} --data my_items/ --index index/",
        ),
        ("Measure it on other data.", "evaluate --run {run} --data my_items/"),
        ("See what the network looks at.", "inspect --run {run} --image query.jpg"),
    ),
}


def next_steps(
    folder: Path, task: str, *, trust: Sequence[str] = ()
) -> list[tuple[str, list[str]]]:
    """Why, and the commands, with the run's folder in them; the most useful first.

    ``trust`` are the modules that its network must be imported from.
    """
    run = shlex.quote(str(folder))
    after = " ".join(("", "--trust", *trust)) if trust else ""
    return [
        (why, [f"python -m siamjax {line.format(run=run)}{after}" for line in lines])
        for why, *lines in _STEPS.get(task, ())
    ]
