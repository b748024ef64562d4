"""What a file may name: networks and pure functions, and nothing that acts."""

import functools
import sys
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from experiments import lfw_contrastive
from siamjax.errors import UsageError
from siamjax.models import LfwNet
from siamjax.training.trusted import look_up, modules_to_trust


class Net(nn.Module):
    """A network of this module."""

    class Inner:
        """Within a linen module."""


def helper(x):
    return x


@jax.jit
def compiled(x):
    return x


@pytest.mark.parametrize(
    ("path", "thing"),
    [
        ("siamjax.models.lfw:LfwNet", LfwNet),
        ("flax.linen:Dense", nn.Dense),
        ("flax.linen:max_pool", nn.max_pool),
        ("jax.nn:relu", jax.nn.relu),
        ("jax.numpy:sin", jnp.sin),
        ("jax.lax:tanh", jax.lax.tanh),
        ("jax.nn.initializers:normal", nn.initializers.normal),
        ("functools:partial", functools.partial),
        ("experiments.lfw_contrastive:build", lfw_contrastive.build),
        (f"{__name__}:Net", Net),
        (f"{__name__}:Net.Inner", Net.Inner),
        (f"{__name__}:helper", helper),
        (f"{__name__}:compiled", compiled),
    ],
)
def test_networks_and_pure_functions_are_found(path, thing):
    assert look_up(path) is thing


@pytest.mark.parametrize(
    "path",
    [
        # Programs that act when they are called, all of them in memory already.
        "os:system",
        "posix:system",
        "subprocess:call",
        "shutil:rmtree",
        "builtins:exec",
        "builtins:eval",
        "pickle:loads",
        "importlib:import_module",
        "siamjax.files:write_text",
        "siamjax.training.trusted:look_up",
        # Through what an allowed module has imported.
        "flax.linen:module.dataclasses",
        "flax.linen:module.os.system",
        "siamjax.models.lfw:nn.Dense",
        "siamjax.models.lfw:jnp.load",
        "siamjax.models.lfw:LfwNet.__init__",
        "siamjax.models.lfw:LfwNet.__subclasses__",
        f"{__name__}:pytest.main",
        f"{__name__}:sys.exit",
        f"{__name__}:look_up",
        # What jax.numpy does with files.
        "jax.numpy:load",
        "jax.numpy:save",
        "jax.numpy:savez",
        "jax.numpy:fromfile",
        "jax.numpy:set_printoptions",
        "jax.numpy:_os",
        "jax.numpy:linalg",
        "jax.numpy:pi",
        # Programs that run when they are imported.
        "antigravity:x",
        "this:x",
        "lib2to3.__main__:x",
        "siamjax.__main__:main",
    ],
)
def test_what_acts_is_refused_and_not_imported(path, capsys):
    before = set(sys.modules)
    with pytest.raises(UsageError, match="the run's network"):
        look_up(path)
    assert {"antigravity", "this", "lib2to3"}.isdisjoint(set(sys.modules) - before)
    assert capsys.readouterr().out == ""


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """Modules that leave a file when they are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    code = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    (tmp_path / "evil.py").write_text(code + "def act(x): return x\n")
    (tmp_path / "broken.py").write_text(code + "raise SystemExit(3)\n")
    yield tmp_path / "ran"
    for name in ("evil", "broken"):
        sys.modules.pop(name, None)


def test_another_module_is_imported_only_if_it_is_trusted(evil):
    with pytest.raises(UsageError, match=r"give --trust evil \(in Python, trust=\('evil',\)\)"):
        look_up("evil:act")
    with pytest.raises(UsageError, match="give --trust evil"):
        look_up("evil:act", trust=("evi", "evil.act"))
    assert not evil.exists()
    assert look_up("evil:act", trust=("other", "evil"))(3) == 3
    assert evil.exists()
    with pytest.raises(UsageError, match="evil defines no such class or function"):
        look_up("evil:gone", trust=("evil",))


@pytest.mark.parametrize(
    ("path", "modules"),
    [
        ("jax.numpy.linalg:norm", ["jax.numpy.linalg"]),
        ("functools:reduce", ["functools"]),
        ("functools:partial", []),
        ("jax.numpy:sin", []),
        ("flax.linen.linear:Dense", []),
    ],
)
def test_the_modules_to_trust_are_those_that_are_refused_without(path, modules):
    assert modules_to_trust({"fields": [{"import": path}]}) == modules
    if modules:
        with pytest.raises(UsageError, match=f"give --trust {modules[0]} "):
            look_up(path)
    assert callable(look_up(path, trust=modules))


def test_a_trusted_module_that_ends_the_process(evil):
    with pytest.raises(UsageError, match=r"broken:x cannot be imported \(SystemExit: 3\)"):
        look_up("broken:x", trust=("broken",))


def test_a_module_in_memory_counts_if_it_defines_a_network(monkeypatch):
    """As a notebook's own; one that only imports networks is a module like any other."""
    home = ModuleType("made_here")
    home.borrowed = nn.Dense
    home.act = eval("lambda x: x")
    home.act.__module__, home.act.__qualname__ = "made_here", "act"
    monkeypatch.setitem(sys.modules, "made_here", home)
    with pytest.raises(UsageError, match="give --trust made_here"):
        look_up("made_here:act")
    home.Net = type("Net", (nn.Module,), {"__module__": "made_here"})
    assert look_up("made_here:act") is home.act
    assert look_up("made_here:Net") is home.Net
