"""A command in one process or several, which can be killed, and what it leaves behind."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIMIT = 60.0  # seconds within which the others end after one has gone
LONGEST = 300.0  # seconds of any command here; what takes longer hangs

# What no user should see: Python's and C++'s own way of dying.
_CRASH = re.compile(
    r"Traceback \(most|^\*\*\* |^F\d{4} |Fatal Python error|Check fail", re.MULTILINE
)
_PLAIN = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as asked:
        asked.bind(("localhost", 0))
        return asked.getsockname()[1]


@dataclass
class Ended:
    """How a process ended: seconds after it was told (or started), status, what it said."""

    seconds: float
    status: int | None
    said: str

    @property
    def crashed(self) -> bool:
        """Whether it showed a traceback, or what C++ prints when it aborts."""
        return bool(_CRASH.search(self.said))

    @property
    def line(self) -> str:
        """Its error, or its last line."""
        lines = self.said.strip().splitlines() or ["nothing"]
        return next((one for one in lines if one.startswith("error: ")), lines[-1])


@dataclass
class Row:
    """One line of the table."""

    fault: str
    processes: int
    times: int = 0
    seen: str = ""
    problems: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """As a row of a table in Markdown."""
        verdict = f"NO: {len(self.problems)} problems" if self.problems else "yes"
        return f"| {self.fault} | {self.processes} | {self.times} | {self.seen} | {verdict} |"


@dataclass
class Command:
    """A module with its words, started in ``count`` processes, each a session of its own.

    ``each`` has further words of a process by its index; ``faults`` what the words of
    ``benchmarks.fault_at`` let happen to it. ``address`` takes the place of a free port.
    """

    words: Sequence[str]
    scratch: Path
    count: int = 1
    each: Mapping[int, Sequence[str]] = field(default_factory=dict)
    faults: Mapping[int, Sequence[str]] = field(default_factory=dict)
    places: Sequence[str] | None = None
    """What follows --distributed in each process; None: whole and right, or nothing for one."""

    def start(self) -> "Command":
        """Start the processes."""
        self.began = time.monotonic()
        port = free_port()
        places = self.places
        if places is None and self.count > 1:
            places = [f"localhost:{port},{self.count},{index}" for index in range(self.count)]
        env = _PLAIN | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.scratch / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        }
        self.processes, self._logs = [], []
        for index in range(self.count):
            log = self.scratch / f"said-{free_port()}-{index}"
            words = (
                ["-m", "benchmarks.fault_at", *self.faults[index]]
                if index in self.faults
                else ["-m"]
            )
            words += [*self.words, *self.each.get(index, ())]
            words += ["--distributed", places[index]] if places else []
            with log.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *words],
                        env=env,
                        cwd=self.scratch,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                    )
                )
            self._logs.append(log)
        return self

    def said(self, index: int) -> str:
        """What a process has said so far."""
        return self._logs[index].read_text(encoding="utf-8", errors="replace")

    def running(self) -> bool:
        """Whether any process still runs."""
        return any(one.poll() is None for one in self.processes)

    def wait_for(self, happened: Callable[[], bool], seconds: float = LONGEST) -> bool:
        """Wait until something happened; False if all ended, or the time is up, before."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if happened():
                return True
            if not self.running():
                return False
            time.sleep(0.001)
        return False

    def send(self, index: int, number: int) -> None:
        """Send a signal to one process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.processes[index].pid, number)

    def ends(self, limit: float = LONGEST, *, since: float | None = None) -> list[Ended]:
        """How each process ends within ``limit`` seconds; one that does not is killed: None."""
        since = self.began if since is None else since
        found: dict[int, Ended] = {}
        until = time.monotonic() + limit
        while len(found) < self.count and time.monotonic() < until:
            for index, process in enumerate(self.processes):
                if index not in found and process.poll() is not None:
                    seconds = time.monotonic() - since
                    found[index] = Ended(seconds, process.returncode, "")
            time.sleep(0.01)
        for index, process in enumerate(self.processes):
            if index not in found:
                found[index] = Ended(time.monotonic() - since, None, "")
                process.kill()
                process.wait()
        self._left()  # what a process says passes through another one, which may be at it still
        return [replace(found[index], said=self.said(index)) for index in range(self.count)]

    def orphans(self) -> list[int]:
        """Processes that these started and that still run a second later; they are killed."""
        left = self._left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _left(self) -> list[int]:
        """The processes that these started and that still run, waited for a second."""
        sessions = {process.pid for process in self.processes}
        for _ in range(10):
            if not (left := [pid for pid, its in _sessions() if its in sessions]):
                break
            time.sleep(0.1)
        return left


def _sessions() -> list[tuple[int, int]]:
    """Process and session ids of all that run and are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                found.append((int(path.parent.name), int(fields[3])))
    return found


def run_end(folder: Path) -> dict[str, Any]:
    """What the end of a run is compared by; what depends on the clock is left out."""
    import jax
    from orbax.checkpoint import v1 as ocp

    from siamjax.files import read_json
    from siamjax.parallel import replicated_sharding
    from siamjax.training.writers import read_metrics

    steps = saved_steps(folder)
    place, everywhere = (
        str((folder / "checkpoints" / str(steps[-1])).absolute()),
        replicated_sharding(),
    )
    saved = ocp.checkpointables_metadata(place).metadata
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        {name: saved[name] for name in ("variables", "training")},
    )
    arrays = ocp.load_checkpointables(place, wanted)
    arrays["training"]["key"] = jax.random.key_data(arrays["training"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(arrays))
    manifest = read_json(folder / "manifest.json", dict[str, Any])
    return {
        "step": steps[-1],  # of the others one that was to be removed may be left
        "arrays": {jax.tree_util.keystr(k): (str(v.dtype), v.tobytes()) for k, v in leaves},
        "metrics": [
            {k: v for k, v in row.items() if not k.endswith(("_per_second", "_percent"))}
            for row in read_metrics(folder)
        ],
        "manifest": {k: v for k, v in manifest.items() if k not in ("sessions", "judged")},
        "damaged": (folder / "damaged").exists(),
        "report": (folder / "report.html").exists(),
    }


def index_end(folder: Path) -> dict[str, Any]:
    """The files of an index."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def saved_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that were saved whole, ascending."""
    return sorted(
        int(path.name) for path in folder.glob("checkpoints/[0-9]*") if path.name.isdigit()
    )


def unfinished(folder: Path) -> list[Path]:
    """What a kill in a save leaves of it."""
    return [path for path in folder.glob("checkpoints/*") if not path.name.isdigit()]


def embedded_rows(folder: Path) -> int:
    """Rows of an index's unfinished segment that count; of a finished index all."""
    from siamjax.files import read_json

    found = 0
    with contextlib.suppress(OSError, ValueError):
        manifest = read_json(folder / "manifest.json", dict[str, Any])
        found = sum(one["count"] for one in manifest["segments"])
    for path in folder.glob("segment-*/progress.json"):
        with contextlib.suppress(OSError, ValueError):
            found = max(found, read_json(path, dict[str, Any])["rows"])
    return found


def differences(got: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return [name for name in sorted({*got, *expected}) if got.get(name) != expected.get(name)]
