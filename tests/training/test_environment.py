"""What a manifest says of the code: its commit, and whether the code differs from it."""

import subprocess

import pytest

import siamjax.training.environment as environment
from siamjax.training.environment import committed


@pytest.fixture
def repository(tmp_path):
    """A repository with one committed file, and a function that runs git in it."""

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "mine.py").write_text("one = 1\n")
    return tmp_path, git


def test_commit_and_changes(repository):
    folder, git = repository
    file = str(folder / "mine.py")
    assert committed(file) is None  # no commit yet
    git("add", "mine.py")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert committed(file) == {"commit": commit, "dirty": False}
    (folder / "runs").mkdir()
    (folder / "runs" / "letter.txt").write_text("untracked, and no code")
    assert committed(file) == {"commit": commit, "dirty": False}
    (folder / "copy.py").write_text("two = 2\n")  # an experiment that git does not know yet
    assert committed(str(folder / "copy.py")) == {"commit": commit, "dirty": True}
    (folder / "mine.py").write_text("one = 2\n")
    assert committed(file) == {"commit": commit, "dirty": True}


def test_outside_of_git_without_git_and_with_a_slow_git(repository, tmp_path, monkeypatch):
    folder, git = repository
    git("add", "mine.py")
    git("commit", "--quiet", "-m", "one")
    assert committed("/proc/version") is None
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(slow.parent), prepend=":")
        patch.setattr(environment, "_LONGEST", 0.05)
        assert committed(str(folder / "mine.py")) is None
    monkeypatch.setenv("PATH", "")
    assert committed(str(folder / "mine.py")) is None
