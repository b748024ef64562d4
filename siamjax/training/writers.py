"""Metrics as JSON lines and as TensorBoard events."""

import json
import os
from pathlib import Path

from siamjax.errors import UsageError


class MetricWriter:
    """Appends to ``metrics.jsonl`` and a TensorBoard event file in a run folder.

    A run that resumes at step ``start`` writes later steps again: rows of these from before the
    interruption are removed first, so that each step appears once.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        # Imported here, because it imports torch where that is installed, which takes a second.
        from tensorboardX import SummaryWriter

        self._path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= start]
        replacement = self._path.with_suffix(".tmp")
        replacement.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(replacement, self._path)
        self._lines = self._path.open("a")
        self._events = SummaryWriter(str(folder / "events"), purge_step=start + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write one line, and one scalar event for each value."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of ``metrics.jsonl``, without a last line that a killed process left incomplete."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UsageError(f"{path}, line {number}: not JSON; mend or remove it") from None
    return rows
