"""The table of faults with few kills: benchmarks/faults.py has the whole of it."""

import pytest

from benchmarks.fault_processes import differences
from benchmarks.faults import Config, main


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1])
def test_every_fault_ends_as_expected(tmp_path, processes, capsys):
    """Two kills of each kind; none of these commands may differ from an undisturbed one."""
    rows = main(Config(kills=2, processes=(processes,), output=tmp_path / "faults.json"))
    assert len(rows) > 10
    assert [(row.fault, row.problems) for row in rows if row.problems] == []


def test_a_difference_is_seen():
    same = {"a": b"1", "b": [1]}
    assert differences(same, dict(same)) == []
    assert differences(same, {"a": b"2", "c": 0}) == ["a", "b", "c"]
