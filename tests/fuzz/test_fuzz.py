"""Damaged inputs to every reader: a result or one clear line, within 5 s and 1 GB."""

import subprocess
import sys
from pathlib import Path

import pytest
from own_files import READERS

PROGRAM = Path(__file__).with_name("fuzz.py")


def fuzz(*words):
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused(name):
    done = fuzz(name)
    assert done.returncode == 0, f"python tests/fuzz/fuzz.py {name}\n{done.stdout}{done.stderr}"
