"""Metrics of a run that goes on: what was written before stays as it was."""

import json

import pytest
from full_disk import files_of_at_most

from siamjax.training.writers import MetricWriter, read_metrics


def test_a_resumed_run_keeps_the_rows_before_it_as_they_are(tmp_path):
    writer = MetricWriter(tmp_path, start=0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": 0.5, "pairs": 3, "auc": 1.0})
    writer.close()
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    writer = MetricWriter(tmp_path, start=20)
    writer.write(30, {"loss": 0.25})
    writer.close()
    after = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert after[:2] == before[:2]
    assert json.loads(after[2]) == {"step": 30, "loss": 0.25}


def test_a_value_that_float32_cannot_hold(tmp_path):
    """Event files have float32; a metric of one's own may be any number."""
    writer = MetricWriter(tmp_path, start=0)
    writer.write(1, {"large": 1e300, "small": -1e300})
    writer.close()
    (row,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(row) == {"step": 1, "large": 1e300, "small": -1e300}


def test_rows_that_a_full_disk_refuses_are_written_later(tmp_path, capsys):
    writer = MetricWriter(tmp_path, start=0)
    writer.write(1, {"loss": 0.5})
    with files_of_at_most((tmp_path / "metrics.jsonl").stat().st_size + 5):
        for step in (2, 3):
            writer.write(step, {"loss": 0.25})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]  # and no part of the second
    (line,) = capsys.readouterr().err.splitlines()
    assert "metrics.jsonl: metrics cannot be written (File too large); make space" in line
    writer.write(4, {"loss": 0.125})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    with files_of_at_most(10):
        writer.write(5, {"loss": 0.125})
        with pytest.raises(OSError, match=r"File too large: "):
            writer.close()
