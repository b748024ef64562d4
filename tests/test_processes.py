"""What is said of several processes before they meet, and that one process needs no others.

Several real ones are started in ``tests/distributed``.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from siamjax import processes
from siamjax.errors import UsageError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "expected HOST:PORT,COUNT,INDEX"),
        ("host", "expected HOST:PORT,COUNT,INDEX"),
        ("host:1234,2", "expected HOST:PORT,COUNT,INDEX"),
        ("host,2,0", "expected HOST:PORT,COUNT,INDEX"),
        ("host:port,2,0", "expected HOST:PORT,COUNT,INDEX"),
        ("host:1234,2,-1", "expected HOST:PORT,COUNT,INDEX"),
        ("host:1234,2,0,1", "expected HOST:PORT,COUNT,INDEX"),
        ("host:1234,2,2", "2 processes have the indices 0 to 1"),
        ("host:1234,0,0", "give 1 process or more"),
    ],
)
def test_words_that_cannot_be_meant(words, said):
    with pytest.raises(UsageError, match=said):
        processes.start(words)


def test_auto_where_there_is_no_cluster():
    """In a process of its own, as JAX notes settings at once; without Slurm's and MPI's words."""
    known = ("SLURM", "OMPI", "PMI", "KUBERNETES", "TPU", "CLOUD", "MEGASCALE")
    around = {name: value for name, value in os.environ.items() if not name.startswith(known)}
    run = subprocess.run(
        [sys.executable, "-m", "experiments.lfw_contrastive", "--distributed", "auto"],
        capture_output=True,
        text=True,
        env=around,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: --distributed auto: JAX does not know this cluster (")
    assert run.stderr.endswith("; give HOST:PORT,COUNT,INDEX\n")
    assert run.stderr.count("\n") == 1


def test_what_is_given_is_all_that_jax_is_told(monkeypatch):
    """Within a Slurm job JAX would leave each process one device of its host."""

    def initialize(**given):
        assert given["cluster_detection_method"] == "deactivate"
        raise RuntimeError("nobody there")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "_let_outlive", lambda unmet: None)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    with pytest.raises(UsageError, match=r"did not meet .*nobody there"):
        processes.start("localhost:1234,2,0")


def test_processes_with_different_numbers_of_devices_are_refused():
    def devices(*processes):
        return [SimpleNamespace(process_index=index) for index in processes]

    processes._check_devices(devices(0, 1, 0, 1))
    with pytest.raises(UsageError, match="the processes have 2, 1 devices; give each the same"):
        processes._check_devices(devices(0, 1, 0))


def test_one_process_is_the_first_and_needs_no_others():
    kept = object()
    assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)
    assert processes.exchange(kept) == [kept]
    assert processes.on_first(lambda: kept) is kept

    @processes.by_first
    def add(first: int, *, second: int) -> int:
        """Add two numbers."""
        return first + second

    assert add(1, second=2) == 3
    assert add.__doc__ == "Add two numbers."
    with pytest.raises(ZeroDivisionError):
        processes.on_first(lambda: 1 / 0)
