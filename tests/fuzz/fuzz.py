"""Give every reader inputs that were damaged at random.

    python tests/fuzz/fuzz.py [NAME ...] [--inputs 1000] [--seed 0] [--only NUMBER] [--list]

A result, or a UsageError of one line, is right. Everything else is printed, and the status is 1:
another exception, more than 5 seconds or 1 GB, a process that dies, a program or a module that the
input made run, and a file written outside the input's folder. ``--only`` repeats one input of a
reader with its traceback. Each reader has a process of its own, which is started anew behind the
input that ended it.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import types
import warnings
from collections import Counter
from pathlib import Path

SECONDS = 5.0  # of computing, so that a busy machine does not matter
SILENCE = 40.0  # seconds after which a process that waits, or hears no alarm, is killed
MEMORY = 2**30
ADDRESSES = 16 * 2**30
EVIL = ("antigravity", "evil_module")  # modules that only an input names


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


class Broken(BaseException):
    """What an input must not be able to do."""


def main() -> int:
    """Fuzz the readers that were named, or all; print a row for each and every failure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--inputs", type=int, help="of each reader; default: what it says itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    from own_files import READERS

    if options.list:
        print("\n".join(READERS))
        return 0
    if options.folder:
        return child(options)
    failed = 0
    for name in options.names or READERS:
        inputs = options.inputs or READERS[name].inputs
        failures, outcomes = run(name, inputs, options.seed, options.only)
        told = ", ".join(f"{count} {what}" for what, count in sorted(outcomes.items()))
        print(f"{name}: {told or 'nothing ran'}", flush=True)
        for what, numbers in failures.items():
            shown = ", ".join(map(str, numbers[:5]))
            print(f"  {len(numbers)} x {what} (--only {shown})", flush=True)
        failed += len(failures) or not outcomes
    return 1 if failed else 0


def run(name: str, inputs: int, seed: int, only: int | None):
    """({failure: input numbers}, how often each outcome came)."""
    failures: dict[str, list[int]] = {}
    outcomes: Counter[str] = Counter()
    at = 0 if only is None else only
    end = inputs if only is None else only + 1
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        while at < end:
            words = ["--folder", folder, "--start", str(at), "--inputs", str(end)]
            words += ["--seed", str(seed), *(["--only", str(only)] if only is not None else [])]
            home = {"HOME": folder, "TMPDIR": folder, "TFDS_DATA_DIR": folder + "/tfds"}
            process = subprocess.Popen(
                [sys.executable, __file__, name, *words],
                stdout=subprocess.PIPE,
                stderr=None if only is not None else subprocess.DEVNULL,
                env={**os.environ, "JAX_PLATFORMS": "cpu", **home},
            )
            begun = False
            for line in lines_of(process):
                begun = True
                what, detail = json.loads(line)
                if what == "at":
                    at = detail
                    continue
                outcomes[what] += 1
                if what == "failures":
                    failures.setdefault(detail, []).append(at)
            status = process.wait()
            if status == 0:
                break
            how = "hangs" if status == -signal.SIGKILL else f"process ends with {status}"
            failures.setdefault(how, []).append(at)
            outcomes["failures"] += 1
            at += 1
            if not begun:
                break
    return failures, outcomes


def lines_of(process: subprocess.Popen):
    """The lines that a process prints; it is killed when it is silent for too long."""
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        rest, patience = b"", 600.0  # to make the whole inputs: runs, indexes
        while True:
            if not selector.select(patience):
                process.kill()
                return
            patience = SILENCE
            got = os.read(process.stdout.fileno(), 2**16)
            if not got:
                return
            *lines, rest = (rest + got).split(b"\n")
            yield from lines


def child(options) -> int:
    """Read the inputs from ``start`` on, and tell about each on standard output."""
    from mutations import mutated_tree, write_tree
    from own_files import READERS

    from siamjax import isolation
    from siamjax.errors import UsageError

    (name,) = options.names
    reader = READERS[name]
    vars(isolation)["subprocess"] = types.SimpleNamespace(Popen=Forked, PIPE=-1, DEVNULL=-3)
    # Our own pipe, as readers may print.
    telling = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what, detail):
        telling.write(json.dumps([what, detail]) + "\n")
        telling.flush()

    root = options.folder.resolve()
    place = root / "input"
    seeds, specials = reader.make(root / "seeds")
    warnings.simplefilter("ignore")
    with contextlib.suppress(Exception):  # imports what it needs, before the limits
        read_once(reader, place, seeds[0], write_tree)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    watch(root)

    def alarm(*_):
        raise TooLong

    signal.signal(signal.SIGPROF, alarm)
    for number in range(options.start, options.inputs):
        tell("at", number)
        rng = random.Random(f"{name} {options.seed} {number}")
        if number < len(seeds):
            tree = seeds[number]
        elif number < len(seeds) + len(specials):
            tree = specials[number - len(seeds)]
        else:
            tree = mutated_tree(rng, rng.choice(seeds))
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            read_once(reader, place, tree, write_tree)
            what, detail = "results", ""
        except UsageError as error:
            clear = len(str(error)) < 2000 and len(str(error).splitlines()) == 1
            what, detail = ("errors", "") if clear else ("failures", f"unclear: {error!r:.80}")
            if number < len(seeds):
                what, detail = "failures", f"a whole input is refused: {error}"
        except TooLong:
            what, detail = "failures", f"more than {SECONDS:.0f} s"
        except BaseException as error:
            if options.only is not None:
                traceback.print_exc()
            last = traceback.extract_tb(error.__traceback__)
            own = [f for f in last if "siamjax" in f.filename and "fuzz" not in f.filename]
            where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside"
            what, detail = "failures", f"{type(error).__name__} at {where}: {str(error)[:80]}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if what != "failures" and memory("VmHWM") - before > MEMORY:
            what, detail = "failures", f"{(memory('VmHWM') - before) / 2**30:.1f} GB"
        tell(what, detail)
    return 0


class Forked:
    """A native reader's child process, forked here: starting Python takes thirty times as long."""

    def __init__(self, *_, **__):
        requests, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.dup2(requests[0], 0)
            os.dup2(answers[1], 1)
            for end in (*requests, *answers):
                os.close(end)
            status = 1
            try:
                from siamjax.isolation import child

                sys.stdin = os.fdopen(0)
                child.serve()
                status = 0
            finally:
                os._exit(status)
        os.close(requests[0])
        os.close(answers[1])
        self.stdin, self.stdout = os.fdopen(requests[1], "wb"), os.fdopen(answers[0], "rb", 0)
        self.status: int | None = None

    def kill(self):
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout=None):
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status


def read_once(reader, place: Path, tree, write_tree) -> None:
    """Write the tree and read it, in silence."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_tree(place, tree)
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        reader.read(place)


def watch(root: Path) -> None:
    """End an input that starts a program, imports what it names, or writes elsewhere."""
    allowed = [f"{root}/", "/dev/null", "/dev/shm/", "/proc/self/clear_refs"]
    if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        allowed.append(f"{cache}/")  # JAX keeps there what took long to compile, on a busy machine

    def hook(event, arguments):
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
            raise Broken(f"runs {str(arguments[0])[:60]}")
        elif event == "import" and arguments[0].partition(".")[0] in EVIL:
            raise Broken(f"imports {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode, flags = arguments
            writes = (
                any(one in mode for one in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
            )
            whole = os.path.abspath(os.fsdecode(path))
            if writes and not whole.startswith(tuple(allowed)):
                raise Broken(f"writes {whole[:60]}")

    sys.addaudithook(hook)


def memory(key: str) -> int:
    """Bytes of this process by /proc: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    sys.exit(main())
