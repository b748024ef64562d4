"""What jaxlib 0.10 and 0.12 print when they abort becomes one line."""

import subprocess
import sys

import numpy as np

from siamjax import last_words

FATAL = (
    "F1127 11:45:17.996066    3914 client.h:80] Terminating process because the JAX distributed "
    "service detected fatal errors. This most likely indicates that another task died; see the "
    "other task logs for more details. absl::Status: "
)
STACK = """*** Check failure stack trace: ***
    @     0x7f701b240634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
    @     0x7f7022ea71f5  (unknown)
"""
GONE = f"""E1127 11:45:35.591723    3867 coordination_service.cc:1549] [139] Use error polling:
1
The tasks have crashed. Check the task logs for an earlier error. [type.googleapis.com/tensorflow]
E1127 11:45:35.592096    3878 coordination_service_agent.cc:289] Polled an error from another task.
{FATAL}UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):
1
The tasks have crashed. Check the task logs for an earlier error, or scheduler events to debug.

RPC: /xla.coordination.CoordinationService/PollForError [type.googleapis.com/tensorflow]
:UNAVAILABLE:Stream removed (Socket closed)
=== Source Location Trace: ===
external/xla+/xla/pjrt/distributed/coordination/coordination_service_error_util.cc:64
"""
UNMET = f"""{FATAL}DEADLINE_EXCEEDED: Deadline Exceeded

RPC: /xla.coordination.CoordinationService/RegisterTask
"""
USUAL = "step 2: validation_auc 0.5\n2\n\n[Gloo] Rank 0 is connected to 1 peer ranks.\nstep 4\n"


def told(text):
    return "".join(last_words.told(text.splitlines(keepends=True), unmet="they did not meet"))


def test_what_is_usual_passes_and_gloo_s_greeting_does_not():
    assert told(USUAL) == "step 2: validation_auc 0.5\n2\n\nstep 4\n"


def test_an_abort_is_one_line():
    assert told(USUAL + GONE + STACK) == told(USUAL) + f"error: {last_words.GONE}\n"
    assert told(GONE) == f"error: {last_words.GONE}\n"  # ended before the stack was shown
    assert told(UNMET + STACK) == "error: they did not meet\n"


def test_an_error_that_python_said_is_not_said_twice():
    for text in (f"error: it has gone\n{GONE}", f"{GONE}error: it has gone\n{STACK}"):
        assert told(text) == "error: it has gone\n"


def test_what_is_not_known_is_shown():
    assert "a new kind of line\n" in told(GONE + "a new kind of line\n")


def test_it_outlives_the_signals_of_its_process():
    command = [sys.executable, "-I", last_words.__file__, "they did not meet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        reader.stdin.write(b"first\n")
        reader.stdin.flush()
        assert reader.stderr.readline() == b"first\n"
        reader.terminate()
        _, said = reader.communicate(UNMET.encode() + b"\xff\n", timeout=20)
    assert said == b"\\xff\nerror: they did not meet\n"
    assert reader.returncode == 0


def test_what_gloo_says_is_left_out_however_its_threads_mix_it():
    end = "peer ranks. Expected number of connected peer ranks is : 3\n"
    mixed = (
        f"[Gloo] Rank 1[Gloo] Rank 0 is connected to 3 {end}",
        f"3 {end}",
        f" is connected to 3 {end}",
    )
    assert told(f"first\n{''.join(mixed)}last\n") == "first\nlast\n"


def test_no_piece_of_what_gloo_says_is_left_whatever_the_order():
    """Each of three threads writes its pieces in order; a number that follows is passed on."""
    rng = np.random.default_rng(0)
    pieces = ["[Gloo] Rank ", "1", " is connected to ", "2", " peer ranks. "]
    pieces += ["Expected number of connected peer ranks is : ", "2", "\n"]
    for _ in range(500):
        threads = [iter(pieces) for _ in range(3)]
        turns = rng.permutation(np.repeat(np.arange(3), len(pieces)))
        mixed = "".join(next(threads[turn]) for turn in turns)
        assert told(f"2\n{mixed}2\n\nlast\n") == "2\n2\n\nlast\n", mixed
