"""A bar on a terminal, lines in a log."""

import io
import sys
import types

import pytest

from siamjax import messages, progress
from siamjax.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which a test moves."""
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_log_has_a_line_every_half_minute(monkeypatch, clock):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress("training", unit="pairs", total=2000, done=1000) as bar:
        for number in range(1, 101):  # a step of 8 pairs a second
            clock[0] += 1
            bar.update(8)
            if number == 50:
                bar.note("loss 0.25")
                messages.note("step 50: auc 0.9")
    assert log.getvalue().splitlines() == [
        "training: 1,240 of 2,000 pairs, 8/s",
        "step 50: auc 0.9",
        "training: 1,480 of 2,000 pairs, 8/s, loss 0.25",
        "training: 1,720 of 2,000 pairs, 8/s, loss 0.25",
    ]


@pytest.mark.parametrize("seconds", [0.0, 29.0])
def test_what_is_done_at_once_is_not_told(monkeypatch, clock, seconds):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with Progress("embedding", unit="images", total=None) as bar:
        clock[0] += seconds
        bar.update(5)
    assert log.getvalue() == ""


def test_not_shown_is_not_shown(monkeypatch, clock):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("x", unit="images", total=3, shown=False) as bar:
            clock[0] += 100
            bar.update(3)
            bar.note("no")
        assert stream.getvalue() == ""


def test_a_terminal_has_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("scoring", unit="pairs", total=40, done=10) as bar:
        bar.update(30)
    shown = terminal.getvalue()
    assert "\r" in shown
    assert "scoring: 100%" in shown
    assert "40.0/40.0" in shown
    assert "pairs/s" in shown


def test_quiet_shows_no_progress_and_no_notes_but_warnings(monkeypatch, clock):
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with messages.quiet(), Progress("x", unit="images", total=3) as bar:
            clock[0] += 100
            bar.update(3)
            messages.note("a page is there")
            messages.warn("the disk has no locks")
        assert stream.getvalue() == "warning: the disk has no locks\n"
        messages.note("told again")
        assert stream.getvalue().endswith("told again\n")


@pytest.mark.parametrize("widgets", [False, True])
def test_a_notebook_has_tqdm_s_own_bar(monkeypatch, widgets):
    """Its text without ipywidgets, of which tqdm.auto would warn; standard error is no terminal."""
    import tqdm.notebook

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: widgets or None)
    made = []

    class Widget(tqdm.tqdm):
        def __init__(self, **options):
            made.append(options["desc"])
            super().__init__(**options)

    monkeypatch.setattr(tqdm.notebook, "tqdm", Widget)
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    with Progress("scoring", unit="pairs", total=40) as bar:
        bar.update(40)
    assert "scoring: 100%" in output.getvalue()
    assert made == ["scoring"] * widgets


def test_preparing_a_set_is_told_in_a_log_by_plain_lines(monkeypatch, clock, tmp_path, capsys):
    """TFDS's own bars and what it prints would be carriage returns in a file."""
    from siamjax.data.datasets.orl_faces import OrlFaces
    from siamjax.data.prepared import prepare

    class Slow(OrlFaces, skip_registration=True):
        name = "slow_faces"

        def _images(self):
            for one in list(super()._images())[:5]:
                clock[0] += 20
                yield one

    prepare(Slow(data_dir=tmp_path))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "preparing slow_faces: 2 images, 0.05/s",
        "preparing slow_faces: 4 images, 0.05/s",
    ]
