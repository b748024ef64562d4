"""What to do with a finished run: commands to paste, by task."""

import shlex
from pathlib import Path

_STEPS = {
    "verification": (
        (
            "Set a threshold for the rate of false matches that you can bear, on your own people "
            "(a folder with a sub-folder for each).",
            "calibrate --run {run} --data my_people/",
        ),
        ("Compare two images.", "verify first.jpg second.jpg --run {run}"),
        ("Measure it on other people.", "evaluate --run {run} --data my_people/"),
        (
            "Find a person among many.",
            "embed my_gallery/ --run {run} --out index/\n"
            "search somebody.jpg --index index/ --out found.html",
        ),
    ),
    "reid": (
        ("Rank a gallery for a query.", "rank query.jpg --gallery my_gallery/ --run {run}"),
        ("Measure it on other people.", "evaluate --run {run} --data my_people/"),
    ),
    "retrieval": (
        (
            "Search a catalogue.",
            "embed my_catalogue/ --run {run} --out index/\n"
            "search query.jpg --index index/ --out found.html",
        ),
        ("Measure it on other items.", "evaluate --run {run} --data my_items/"),
        ("See what the network looks at.", "inspect --run {run} --image query.jpg"),
    ),
}


def next_steps(folder: Path, task: str) -> list[tuple[str, str]]:
    """Why, and the commands, a line each, with the run's folder in them; the most useful first."""
    run = shlex.quote(str(folder))
    return [
        (why, "\n".join(f"python -m siamjax {line.format(run=run)}" for line in lines.split("\n")))
        for why, lines in _STEPS.get(task, ())
    ]
