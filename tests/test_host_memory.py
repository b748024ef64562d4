"""Freed memory stays with the process, up to a quarter of the machine's."""

import os
import subprocess
import sys

import pytest

from siamjax import host_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")

PROGRAM = """
import numpy as np
from siamjax import host_memory
from siamjax.host_memory import give_memory_back, keep_memory

keep_memory()
{first}
pages = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
before = pages()
taken = np.ones((64, 2**17))
last = np.ones(2**17)  # else the heap's end would be free, and grow again from there
del taken
give_memory_back()
print(pages() - before)
"""


def kept(first="", **environment):
    """MiB that a process still has of 64, and 1, that it freed."""
    asked = {name: text for name, text in os.environ.items() if "MALLOC" not in name.upper()}
    program = [sys.executable, "-c", PROGRAM.format(first=first)]
    told = subprocess.run(
        program, env=asked | environment, capture_output=True, text=True, check=True
    )
    return int(told.stdout)


def test_freed_memory_is_kept():
    assert kept() >= 64


@pytest.mark.parametrize("first", ["host_memory._most_kept = 2**20", "give_memory_back()"])
def test_beyond_the_share_or_after_growth_it_is_given_back(first):
    assert kept(first) < 16


@pytest.mark.parametrize("name", host_memory._CHOICES)
def test_a_choice_of_the_user_is_kept(name):
    text = "glibc.malloc.arena_max=8" if name == "GLIBC_TUNABLES" else "8388608"
    assert kept(**{name: text}) < 16


def test_the_limit_of_a_container(tmp_path, monkeypatch):
    machine = host_memory._available()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(host_memory, "_LIMITS", (str(limit), str(tmp_path / "missing")))
    for text, expected in (("max\n", machine), ("1048576\n", 2**20), (str(2**62), machine)):
        limit.write_text(text)
        assert host_memory._available() == expected
