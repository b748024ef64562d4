"""Metrics of a run that goes on: what was written before stays as it was."""

import json

from siamjax.training.writers import MetricWriter


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
