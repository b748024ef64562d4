"""The table of faults with few kills: benchmarks/faults.py has the whole of it."""

import pytest

from benchmarks.fault_processes import differences
from benchmarks.faults import Config, main

# Without the longest waits, and without what other tests do to a single process.
ROWS = ("kills", "terminations", "damaged", "full disk", "dies while", "hangs")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_after_every_fault_the_end_is_that_of_an_undisturbed_run(tmp_path, processes):
    config = Config(kills=2, only=ROWS, processes=(processes,), output=tmp_path / "faults.json")
    rows = main(config)
    assert len(rows) == 10
    assert [(row.fault, row.problems) for row in rows if row.problems] == []


def test_a_difference_is_seen():
    same = {"a": b"1", "b": [1]}
    assert differences(same, dict(same)) == []
    assert differences(same, {"a": b"2", "c": 0}) == ["a", "b", "c"]
