"""Several processes, on one host or on many, that work on one thing together.

Every process runs the same program. Process 0 alone prints and writes; whatever a process has to
decide by itself, such as what a file holds, is decided there. JAX's distributed runtime connects
the processes (``jax.distributed``), and notices one that has gone by its missing heartbeats.
"""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siamjax import last_words, messages
from siamjax.errors import UsageError, shown

Given = ParamSpec("Given")
Result = TypeVar("Result")

_HEARTBEAT = 20  # seconds without a sign of life after which a process counts as gone
_MEETING = 40  # seconds to wait for the others at the start, and at the end; it takes 8 more
_LAST_WORDS = 2  # seconds for which process 0, whose end ends the others, lets them say theirs
_alone = False
_joined = False


def start(words: str) -> None:
    """Join the other processes; call this before JAX's first computation.

    ``words`` are HOST:PORT,COUNT,INDEX: where process 0 listens, how many processes there are, and
    which of them this is, from 0; or ``auto``, where JAX finds out by itself (Slurm, Open MPI,
    Kubernetes, TPU pods). Raises ``UsageError`` for other words, and where the others cannot be
    reached within a minute.
    """
    given: dict[str, Any] = {}
    if words != "auto":
        found = re.fullmatch(r"(.+:[0-9]{1,5}),([0-9]{1,6}),([0-9]{1,6})", words)
        if found is None:
            raise UsageError(
                f"--distributed {shown(words)}: expected HOST:PORT,COUNT,INDEX, such as "
                "10.0.0.1:1234,2,0 for the first of two processes, or auto"
            )
        count, index = int(found[2]), int(found[3])
        if not count:
            raise UsageError(f"--distributed {shown(words)}: give 1 process or more")
        if index >= count:
            raise UsageError(
                f"--distributed {shown(words)}: {count} processes have the indices 0 to {count - 1}"
            )
        given = {
            "coordinator_address": found[1],
            "num_processes": count,
            "process_id": index,
            # Or Slurm and Open MPI would leave each process one of its host's devices.
            "cluster_detection_method": "deactivate",
        }
        messages.note(f"process {index} of {count}: meeting the others at {shown(found[1])}")
    unmet = (
        f"--distributed {shown(words)}: the processes did not meet within a minute; start all of "
        "them with the same HOST:PORT of process 0, which the others can reach, with the same "
        "COUNT, and each with an INDEX of its own"
    )
    _let_outlive(unmet)
    # Its handler of SIGTERM would keep the signal from everybody else.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=_MEETING,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_MEETING,
        )
    except (RuntimeError, ValueError) as error:
        if not given and isinstance(error, ValueError):
            raise UsageError(
                f"--distributed auto: JAX does not know this cluster ({shown(error)}); give "
                "HOST:PORT,COUNT,INDEX"
            ) from None
        raise UsageError(f"{unmet} ({shown(error)})") from None
    # Libraries of collectives print from C++, and the output has the results alone.
    sys.stdout.flush()
    results = open(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    os.dup2(2, 1)
    sys.stdout = results if is_first() else open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    _check_devices(jax.devices())
    global _joined
    _joined = True
    # All devices connect for collectives now, as all processes are at one place: gloo gives up
    # where one is half a minute behind, as one is that has to compile what another has kept.
    every = NamedSharding(Mesh(np.asarray(jax.devices()), ("devices",)), PartitionSpec("devices"))
    own = np.zeros(jax.local_device_count(), np.float32)
    jax.block_until_ready(jnp.sum(jax.make_array_from_process_local_data(every, own)))
    # Process 0's count is that of JAX.
    if len(counts := {*exchange(given.get("num_processes"))}) > 1:
        raise UsageError(f"--distributed: the processes were given different COUNTs: {counts}")


def _check_devices(devices: Sequence[Any]) -> None:
    """``UsageError`` unless all processes have the same number of devices."""
    counts = Counter(one.process_index for one in devices)
    if len({*counts.values()}) > 1:
        raise UsageError(
            f"--distributed: the processes have {', '.join(str(counts[n]) for n in sorted(counts))}"
            " devices; give each the same number, such as by CUDA_VISIBLE_DEVICES"
        )


def _let_outlive(unmet: str) -> None:
    """Let standard error go through :mod:`siamjax.last_words`, which says why jaxlib aborts."""
    # Isolated: else the folder of that file, where ours is called platform, would be looked into.
    command = [sys.executable, "-I", last_words.__file__, unmet]
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # no process more can be started: then jaxlib says it itself
        reader = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert reader.stdin is not None
        os.dup2(reader.stdin.fileno(), 2)
        reader.stdin.close()


def joined() -> bool:
    """Whether :func:`start` has met others; unlike :func:`count` it needs no device of JAX's."""
    return _joined and jax.process_count() > 1


def count() -> int:
    """How many processes work together; 1 within :func:`on_first`."""
    return 1 if _alone else jax.process_count()


def index() -> int:
    """Which of them this is, from 0."""
    return 0 if _alone else jax.process_index()


def is_first() -> bool:
    """Whether this process prints and writes."""
    return index() == 0


def exchange(value: Any) -> list[Any]:
    """What every process gives here, in the order of the processes; all must call it.

    ``value`` is anything that JSON holds; tuples come back as lists.
    """
    if count() == 1:
        return [value]
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    longest = int(_gathered(np.array([len(content)])).max())
    room = 256
    while room < longest:  # rooms of few sizes, as each is compiled for
        room *= 4
    rows = _gathered(np.pad(content, (0, room - len(content)), constant_values=ord(" ")))
    return [json.loads(row.tobytes()) for row in rows]


def _gathered(values: np.ndarray) -> np.ndarray:
    """A row for each process."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values)).reshape(count(), -1)


def on_first(function: Callable[[], Result]) -> Result:
    """Call a function in process 0 alone; all processes return its result, or raise its error.

    The result is anything that JSON holds; of errors, ``UsageError`` reaches all. Within the
    function there is one process: work that would be divided is done on its devices alone.
    """
    if count() == 1:
        return function()
    done: dict[str, Any] = {}
    if is_first():
        try:
            with _by_itself():
                done["result"] = function()
        except UsageError as error:
            done["error"] = str(error)
    done = exchange(done)[0]
    if "error" in done:
        raise UsageError(done["error"])
    return done["result"]


def by_first(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function that :func:`on_first` calls."""

    @functools.wraps(function)
    def call(*arguments: Given.args, **options: Given.kwargs) -> Result:
        return on_first(lambda: function(*arguments, **options))

    return call


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def lost(error: Exception) -> str | None:
    """What to say where an error means that another process has gone; None: it does not."""
    if not joined() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if not re.search("Gloo|NCCL|coordination|heartbeat|connection", str(error), re.IGNORECASE):
        return None
    return last_words.GONE


def leave(status: int) -> NoReturn:
    """End after an error: at once, where Python's usual end would wait for the other processes.

    These are told by their next collective, or by the missing heartbeats.
    """
    if not joined():
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    if jax.process_index() == 0:
        time.sleep(_LAST_WORDS)
    os._exit(status)
