"""What commands do where the machine is at its limits: streams, disks, devices, encodings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamjax import cli

ROOT = Path(__file__).parent.parent
# Without the tests' cache: jaxlib 0.10.0 writes pages on standard error when it reads one.
PLAIN = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": "",
}
PLAIN.pop("PYTHONUNBUFFERED", None)


def guarded(code, *, env=None, options=(), **streams):
    """A process that runs ``code`` in a command of :func:`siamjax.cli.guard`."""
    program = f"from siamjax import cli\ndef command():\n    {code}\ncli.guard(command)"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    command = [sys.executable, *options, "-"]
    env = PLAIN | (env or {})
    return subprocess.run(command, input=program.encode(), env=env, **streams, timeout=120)


def one_line(done, status):
    assert done.returncode == status, done
    said = done.stderr.decode()
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    return said


@pytest.mark.parametrize("options", [(), ("-u",)], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_gone_is_no_error(options, lines):
    read, write = os.pipe()
    os.close(read)
    try:
        code = f"[print('one of many lines') for _ in range({lines})]"
        done = guarded(code, options=options, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_reader_of_errors_that_has_gone_is_no_error():
    read, write = os.pipe()
    os.close(read)
    try:
        done = guarded("import sys; print('a warning', file=sys.stderr, flush=True)", stderr=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stdout) == (141, b"")


@pytest.mark.parametrize("options", [(), ("-u",)], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_full_disk_behind_the_output(options, lines):
    code = f"[print('one of many lines') for _ in range({lines})]"
    with open("/dev/full", "wb") as full:
        said = one_line(guarded(code, options=options, stdout=full), 1)
    assert "No space left on device; make space" in said
    assert options or lines > 1 or "standard output: " in said


def test_a_full_disk_behind_both(tmp_path):
    """There is nowhere to say it, but the status tells."""
    with open("/dev/full", "wb") as full:
        assert guarded("print('x')", stdout=full, stderr=full).returncode == 1
        code = "raise cli.UsageError('x')"
        assert guarded(code, stderr=full).returncode == 1


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_and_files_that_would_get_their_numbers(closed, tmp_path):
    """What is printed must not end up in the next file that is opened."""
    code = (
        "import sys, os\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    print('out'), print('err', file=sys.stderr)\n"
        "    os.write(2, b'of a library'), os.system('echo of a child >&2')\n"
        "    file.write('mine'), file.close()"
    )
    program = f"from siamjax import cli\ndef command():\n    {code}\ncli.guard(command)"
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program]
    done = subprocess.run(shell, env=PLAIN, capture_output=True, timeout=120)
    assert done.returncode == 0, done
    assert (tmp_path / "file").read_text() == "mine"
    assert done.stdout == (b"" if "1>" in closed else b"out\n")


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
    ],
    ids=str,
)
def test_names_of_any_alphabet_in_any_locale(env, tmp_path):
    path = tmp_path / "made"
    code = (
        "import sys; from pathlib import Path; from siamjax.files import write_text\n"
        "    print('Ω é 孫 \\udcff'), print('Ω é 孫 \\udcff', file=sys.stderr)\n"
        f"    write_text(Path({str(path)!r}), 'Ω é 孫')"
    )
    done = guarded(code, env=env)
    assert done.returncode == 0, done
    ascii_only = env.get("PYTHONIOENCODING") == "ascii" or "PYTHONUTF8" in env
    text = r"\u03a9 \xe9 \u5b6b \udcff" if ascii_only else r"Ω é 孫 \udcff"
    assert done.stdout.decode() == done.stderr.decode() == text + "\n"
    assert path.read_text(encoding="utf-8") == "Ω é 孫"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open('/proc/nothing', 'wb')", "error: /proc/nothing: "),
        ("import os; raise OSError(28, os.strerror(28))", "error: No space left on device; make"),
        ("open('/' + 300 * 'a')", "File name too long; use shorter names"),
        ("open('/dev/null/x')", "error: /dev/null/x: Not a directory"),
        (
            "open('/nowhere\\n/x')",
            r"error: /nowhere\n/x: No such file or directory; check the path",
        ),
        ("open('/tmp')", "error: /tmp: Is a directory"),
        ("import os; raise OSError(28, os.strerror(28), 'x')", "x: No space left on device; make"),
        ("import os; raise OSError(30, os.strerror(30), 'x')", "x: Read-only file system; choose"),
        ("[open('/dev/null') for _ in range(10**6)] ", "Too many open files; allow more"),
        ("raise cli.UsageError('two\\nlines')", r"error: two\nlines"),
        (
            "import numpy; numpy.ones(2**55)",
            "error: not enough memory (Unable to allocate 256. P",
        ),
        ("import jax; jax.numpy.zeros(2**50, 'u1')", "not enough memory (RESOURCE_EXHAUSTED: "),
    ],
)
def test_what_the_machine_refuses_is_one_line(code, said):
    if "10**6" in code:
        code = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)); x = " + code
    assert said in one_line(guarded(code), 1)


@pytest.mark.parametrize("code", ["1 / 0", "raise OSError('no number')", "raise ValueError('x')"])
def test_a_bug_keeps_its_traceback(code):
    done = guarded(code)
    assert done.returncode == 1
    assert b"Traceback" in done.stderr
    assert b"def command" not in done.stderr.splitlines()[-1]


def test_a_pipe_to_another_process_that_broke_is_not_the_readers():
    done = guarded("import os; a, b = os.pipe(); os.close(a); os.write(b, b'x')")
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr


@pytest.mark.parametrize("platform", ["cuda", "tpu", "no-such"])
def test_a_platform_that_is_not_there_is_named(platform):
    used = "import siamjax.processes, jax.numpy; jax.numpy.zeros(3)"
    done = guarded(used, env={"JAX_PLATFORMS": platform})
    assert f"JAX_PLATFORMS={platform}" in one_line(done, 1)


def test_interrupted_where_nothing_is_saved():
    # A shell starts what runs in its background with SIGINT ignored.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = guarded(f"import os, signal; {heard}; os.kill(os.getpid(), signal.SIGINT)")
    assert (done.returncode, done.stderr.decode().count("\n")) == (130, 1)


@pytest.mark.slow
def test_all_modules_without_docstrings_and_without_torch():
    """``python -OO`` takes docstrings and asserts away; torch takes seconds to import."""
    code = (
        "import importlib, pkgutil, siamjax, experiments\n"
        "for package in (siamjax, experiments):\n"
        "    for one in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(one.name)\n"
        "import sys\n"
        "assert not {'torch', 'tensorboardX', 'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-OO", "-c", code], check=True, env=PLAIN, cwd=ROOT)
    for words in (["siamjax", "weights", "list"], ["experiments.lfw_bce", "--help"]):
        subprocess.run(
            [sys.executable, "-OO", "-m", *words],
            check=True,
            env=PLAIN,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )


def test_an_argument_s_help_is_one_paragraph(capsys, monkeypatch):
    """It is wrapped for the terminal alone, and not where the docstring's lines end."""

    def act(*, probes: int = 3) -> None:
        """Act.

        Args:
            probes: Number of lists to look into; more of them find more of the items, and they take
                longer.
        """

    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        cli.call(act, program="act", words=["--help"])
    assert "find more of the items, and they take longer." in capsys.readouterr().out
