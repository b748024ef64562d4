"""Metrics as JSON lines and as TensorBoard events."""

import contextlib
from pathlib import Path
from typing import Any

from siamjax.errors import UsageError, shown
from siamjax.files import dump_json, naming, read_rows, write_text
from siamjax.training.events import EventFile

_FILE = "metrics.jsonl"


class MetricWriter:
    """Appends to ``metrics.jsonl`` and a TensorBoard event file in a run folder.

    A run that resumes at step ``start`` writes later steps again: rows of these from before the
    interruption are removed first, so that each step appears once.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        self._path = path = folder / _FILE
        kept = [row for row in read_metrics(folder) if row["step"] <= start]
        write_text(path, "".join(dump_json(row) + "\n" for row in kept))
        self._lines = path.open("a", encoding="utf-8")
        self._events = EventFile(folder / "events", start=start)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line, and one event with all values."""
        with naming(self._path):
            self._lines.write(dump_json({"step": step, **values}) + "\n")
            self._lines.flush()
        self._events.write(step, values)

    def close(self) -> None:
        """Close both files."""
        with contextlib.closing(self._events), naming(self._path):
            self._lines.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``: numbers by name, ``step`` among them.

    A last line that a killed process left incomplete is left out with a word, and so is a number
    that was not finite. Raises ``UsageError`` with the line for anything else.
    """
    rows = read_rows(folder / _FILE, dict[str, int | float | None])
    found = [
        # Earlier versions wrote NaN where null stands now; v - v is 0 of finite numbers alone.
        {name: v for name, v in row.items() if v is not None and v - v == 0}
        for row in rows
    ]
    for number, row in enumerate(found, start=1):
        if row.get("step", -1) < 0 or row["step"] != int(row["step"]):
            raise UsageError(
                f"{shown(folder / _FILE)}, row {number}: no step from 0 on; mend or remove it"
            )
    return found
