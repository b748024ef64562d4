"""The CPU flag: given where the installed jaxlib knows it, and left out with a word elsewhere."""

import os

import pytest

from siamjax import platform


@pytest.fixture
def without_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--another=1")
    platform._is_known.cache_clear()
    yield monkeypatch
    platform._is_known.cache_clear()


def flags():
    return os.environ["XLA_FLAGS"].split()


def test_the_installed_jaxlib_knows_the_flag(without_flags, capsys):
    platform.use_fast_cpu_kernels()
    platform.use_fast_cpu_kernels()
    assert flags() == ["--another=1", f"--{platform._FLAG}={','.join(platform._TYPES)}"]
    assert capsys.readouterr().err == ""


def test_a_choice_of_the_user_is_kept(without_flags):
    without_flags.setenv("XLA_FLAGS", f"--{platform._FLAG}=")
    platform.use_fast_cpu_kernels()
    assert flags() == [f"--{platform._FLAG}="]


@pytest.mark.parametrize("name", ["_FLAG", "_TYPES"])
def test_an_unknown_flag_or_value_is_left_out_with_one_word(name, without_flags, capsys):
    unknown = "xla_flag_of_another_time"
    without_flags.setattr(platform, name, unknown if name == "_FLAG" else (unknown,))
    platform.use_fast_cpu_kernels()
    platform.use_fast_cpu_kernels()
    assert flags() == ["--another=1"]
    said = capsys.readouterr().err
    assert said.count("does not know") == said.count("\n") == 1


def test_no_jaxlib_to_search(without_flags, capsys):
    without_flags.setattr(platform.importlib.util, "find_spec", lambda name: None)
    platform.use_fast_cpu_kernels()
    assert flags() == ["--another=1"]
    assert "does not know" in capsys.readouterr().err
