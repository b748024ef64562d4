"""Starts processes that work together, and ends with what each of them said if one fails."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
ANSWERS = 500  # seconds, where nothing is compiled yet and others keep the machine busy


class Ended(NamedTuple):
    """What a process said, and how it ended: a signal's number is negative."""

    status: int
    out: str
    err: str


class Processes:
    """``python WORDS``, once for each index; ``{distributed}`` in a word is HOST:PORT,COUNT,INDEX.

    Each has ``devices`` fake CPU devices. A context: at its end none of them is left, nor any that
    they started.
    """

    def __init__(self, *words, folder, count=2, devices=2, where=None, **environment):
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "distributed")]
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": os.pathsep.join(paths),
            **environment,
        }
        address = f"localhost:{free_port()}"
        self._said = [(folder / f"{index}.out", folder / f"{index}.err") for index in range(count)]
        self.running = []
        for index, (out, err) in enumerate(self._said):
            distributed = f"{address},{count},{index}"
            with out.open("w") as out_file, err.open("w") as err_file:
                one = subprocess.Popen(
                    [sys.executable, *(w.replace("{distributed}", distributed) for w in words)],
                    stdin=subprocess.DEVNULL,
                    stdout=out_file,
                    stderr=err_file,
                    env=environment,
                    cwd=ROOT if where is None else where[index],
                    start_new_session=True,  # it and its workers can be killed together
                )
            self.running.append(one)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for one in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.wait()

    def ended(self, *, within=ANSWERS):
        """Wait until all have ended; of each how, and what it said."""
        self._wait(within, until=lambda: all(one.poll() is not None for one in self.running))
        return self._ended()

    def succeeded(self, *, within=ANSWERS):
        """Wait until all have ended well."""
        failed = lambda: any(one.poll() for one in self.running)  # noqa: E731
        done = lambda: all(one.poll() is not None for one in self.running)  # noqa: E731
        self._wait(within, until=lambda: failed() or done())
        if failed():
            with contextlib.suppress(AssertionError):
                self._wait(5, until=done)  # for the others to say what they met
            raise AssertionError(f"a process failed\n{self._told()}")
        return self._ended()

    def wait_for(self, words, *, within=ANSWERS):
        """Wait until one of them has said ``words`` on its standard error."""
        said = lambda: any(words in err.read_text() for _, err in self._said)  # noqa: E731
        over = lambda: all(one.poll() is not None for one in self.running)  # noqa: E731
        self._wait(within, until=lambda: said() or over())
        assert said(), f"nobody said {words!r}\n{self._told()}"

    def _wait(self, seconds, *, until):
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                raise AssertionError(f"not done after {seconds} s\n{self._told()}")
            time.sleep(0.05)

    def _ended(self):
        return [
            Ended(one.returncode, out.read_text(), err.read_text())
            for one, (out, err) in zip(self.running, self._said, strict=True)
        ]

    def _told(self):
        return "\n".join(
            f"--- process {index}, status {status}\n{out[-2000:]}{err[-4000:]}"
            for index, (status, out, err) in enumerate(self._ended())
        )


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]
