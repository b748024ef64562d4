"""The directions of imports, and rules that hold for every public function."""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import siamjax

ROOT = Path(siamjax.__file__).parent
ABOVE = ("siamjax.runs", "siamjax.cli")
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "siamjax."))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def forbidden(paths, *prefixes):
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
    ]


def test_data_knows_no_jax():
    above = ("jax", "flax", "optax", "orbax", "siamjax.models", "siamjax.training")
    assert forbidden(files("data"), *above, "siamjax.report", "siamjax.metrics") == []


def test_library_knows_no_experiment_and_no_tensorflow():
    assert forbidden(files("."), "experiments", "tests", "tensorflow", "torch") == []


def test_pure_functions_know_no_machinery():
    pure = [*files("models", "metrics", "correlation"), ROOT / "losses.py", ROOT / "distances.py"]
    machinery = ("siamjax.training", "siamjax.report", "siamjax.data", "siamjax.search")
    assert forbidden(pure, *machinery, *ABOVE) == []


def test_training_and_search_know_no_runs():
    """Runs are a layer above: they train, search and report."""
    assert forbidden(files("training", "search", "report", "data"), *ABOVE) == []
    assert forbidden(files("training"), "siamjax.search") == []
    assert forbidden(files("report"), "siamjax.training", "siamjax.search") == []


def test_pmap_is_named_in_one_file():
    naming = [path for path in files(".") if "jax.pmap" in path.read_text()]
    assert [path.name for path in naming] == ["parallel.py"]


def test_experiments_hold_no_machinery():
    experiments = sorted((ROOT.parent / "experiments").glob("*.py"))
    assert len(experiments) > 2
    for path in experiments:
        assert forbidden_words(path) == []
        assert len(path.read_text().splitlines()) <= 180


def forbidden_words(path):
    text = path.read_text()
    return [word for word in ("pmap", "Checkpoints", "for step in", "orbax") if word in text]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_options_are_keyword_only_and_documented(name):
    """No ``**kwargs``; what has a default is keyword-only; everything public says what it is."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public, thing in vars(module).items():
        if public.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if not inspect.isfunction(thing):
            continue
        assert thing.__doc__, public
        for parameter in inspect.signature(thing).parameters.values():
            assert parameter.kind is not parameter.VAR_KEYWORD, public
            if parameter.default is not parameter.empty:
                keyword_only = parameter.kind is parameter.KEYWORD_ONLY
                assert keyword_only or public in ALLOWED, f"{public}: {parameter.name}"


# Arguments and not options: find(alignment, folders=None), and the bias after a kernel.
ALLOWED = {"find", "normxcorr_conv", "cross_input_neighbourhood_conv"}
