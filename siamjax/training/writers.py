"""Metrics as JSON lines and as TensorBoard events."""

import contextlib
from pathlib import Path
from typing import Any

from siamjax.errors import UsageError, shown
from siamjax.files import Growing, dump_json, read_rows, write_text
from siamjax.messages import warn
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
        self._lines = Growing(path)
        self._events = EventFile(folder / "events", start=start)
        self._told = False

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line, and one event with all values; what the disk refuses waits for space."""
        line = dump_json({"step": step, **values}) + "\n"
        for write in (
            lambda: self._lines.write(line.encode()),
            lambda: self._events.write(step, values),
        ):
            try:
                write()
            except OSError as error:
                if not self._told:
                    self._told = True
                    warn(
                        f"{shown(error.filename)}: metrics cannot be written ({error.strerror}); "
                        "make space: training goes on, and they are written later"
                    )

    def close(self) -> None:
        """Write what waits, and close both files; ``OSError`` if the disk refuses it still."""
        with contextlib.closing(self._events):
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
