"""The directions of imports, and rules that hold for every public function."""

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import siamjax

ROOT = Path(siamjax.__file__).parent
EXPERIMENTS = sorted(
    path for path in (ROOT.parent / "experiments").glob("*.py") if path.stem != "__init__"
)
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "siamjax."))

# Each may import those after it, and nothing before it.
LAYERS = ("commands", "report", "search", "inference", "training")
NETWORKS = (
    "lfw",
    "normxcorr_net",
    "visual_search",
    "vgg16",
    "inception_v3",
    "inception_embedding",
    "vit",
    "face_embedding",
    "iresnet",
    "osnet",
    "resnet",
)


def imports(path):
    """What a file imports when it runs; what it imports for its annotations alone is no import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def forbidden(paths, *prefixes):
    return [
        f"{path.relative_to(ROOT.parent)} imports {name}"
        for path in paths
        for name in imports(path)
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
    ]


def test_imports_are_found(tmp_path):
    """The tests below rest on it."""
    path = tmp_path / "a.py"
    path.write_text(
        "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ndef f():\n    import g\n"
    )
    assert sorted(imports(path)) == ["a.b", "c", "c.d", "g"]


def test_data_knows_no_jax():
    above = [f"siamjax.{name}" for name in (*LAYERS, "models", "metrics", "parallel", "cli")]
    assert forbidden(files("data"), "jax", "flax", "optax", "orbax", *above) == []


def test_library_knows_no_experiment_and_no_tensorflow():
    assert forbidden(files("."), "experiments", "tests", "tensorflow", "torch") == []


def test_pure_functions_know_no_machinery():
    pure = [ROOT / f"{name}.py" for name in ("losses", "distances", "mining", "parallel")]
    machinery = [f"siamjax.{name}" for name in (*LAYERS, "data", "cli", "pretrained")]
    assert forbidden([*files("models", "metrics", "correlation"), *pure], *machinery) == []


def test_what_is_computed_on_the_host_knows_no_jax():
    """Measures but those of training, and what lists runs: they are quick to import."""
    host = [path for path in files("metrics") if path.stem not in ("mean", "monitors")]
    names = ("runs", "aligned", "messages", "lazy", "options", "host_memory")
    plain = [ROOT / f"{name}.py" for name in names]
    assert forbidden([*host, *plain], "jax", "flax", "optax", "orbax") == []


def test_what_knows_of_devices_and_processes_stands_on_jax_alone():
    files = ROOT / "parallel.py", ROOT / "processes.py"
    own = {name.split(".")[1] for f in files for name in imports(f) if name.startswith("siamjax.")}
    assert own == {"checks", "errors", "host_memory", "last_words", "messages", "processes"}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_import_one_way(layer):
    above = LAYERS[: LAYERS.index(layer)]
    assert forbidden(files(layer), *(f"siamjax.{name}" for name in (*above, "__main__"))) == []


def test_nothing_generic_knows_a_network_by_name():
    networks = [f"siamjax.models.{name}" for name in NETWORKS]
    assert {f"{name}.py" for name in NETWORKS} < {path.name for path in files("models")}
    generic = files(*LAYERS)
    assert forbidden(generic, *networks) == []
    words = (
        "LfwNet",
        "NormXCorrNet",
        "VisualSearchNet",
        "Vgg16",
        "InceptionV3(",
        "VisionTransformer",
    )
    code = [ast.unparse(_without_docstrings(ast.parse(path.read_text()))) for path in generic]
    assert [word for word in words for text in code if word in text] == []


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
    return tree


def test_pmap_and_its_axis_are_named_in_one_file():
    def naming(word):
        return [path.name for path in files(".") if re.search(rf"\b{word}\b", path.read_text())]

    assert naming("jax.pmap") == ["parallel.py"]
    # Runs of format 1 described their networks with an axis, which is taken out there.
    assert naming("axis_name") == ["parallel.py", "manifest.py"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.count(".") == 1])
def test_contents_name_what_they_hold(name):
    """A module within the package, once imported, would stand in the place of another thing."""
    package = importlib.import_module(name)
    if "__getattr__" in vars(package):
        assert sorted(package.__all__) == dir(package)
        within = {one.name for one in pkgutil.iter_modules(package.__path__)}
        found = {public: getattr(package, public) for public in package.__all__}
        assert [public for public in within & {*found} if not inspect.ismodule(found[public])] == []
        with pytest.raises(AttributeError, match="nothing"):
            _ = package.nothing


def test_six_experiments():
    assert {path.stem for path in EXPERIMENTS} == {
        "faces_inception",
        "finetune_embedding",
        "lfw_bce",
        "lfw_contrastive",
        "reid_normxcorr",
        "visual_search_triplet",
    }


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
class TestExperiment:
    """An experiment composes in sight, and holds no plumbing."""

    def test_shows_what_makes_it(self, path):
        text = path.read_text()
        tree = ast.parse(text)
        assert {node.name for node in tree.body if hasattr(node, "name")} == {
            "Config",
            "build",
            "main",
        }
        assert (
            "step = data_parallel(make_train_step(loss_fn, optimizer, nonfinite=config.nonfinite))"
            in text
        )
        assert "optimizer = optax." in text or "optax.adam" in text
        for shown in ("def loss_fn(", "losses.", "def evaluate(", "best=", "baselines", "fit("):
            assert shown in text, shown
        assert f"python -m experiments.{path.stem}" in ast.get_docstring(tree)

    def test_holds_no_plumbing(self, path):
        text = path.read_text()
        assert 60 <= len(text.splitlines()) <= 135
        for word in ("pmap", "orbax", "Checkpoints", "psum", "axis_name", "jax.jit"):
            assert not re.search(rf"\b{word}\b", text), word
        loops = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.For, ast.While))]
        assert loops == []
        assert len(re.findall(r"(\w+)=config\.\1\b", text)) <= 6


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_options_are_keyword_only_and_documented(name):
    """No ``**kwargs``; what has a default is keyword-only; everything public says what it is."""
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", ()):
        thing = getattr(module, public)
        assert thing.__doc__ or not (inspect.isfunction(thing) or inspect.isclass(thing)), public
    for public, thing in vars(module).items():
        if public.startswith("_") or getattr(thing, "__module__", None) != name:
            continue
        if inspect.isclass(thing):
            assert thing.__doc__, public
        if not inspect.isfunction(thing):
            continue
        assert thing.__doc__, public
        for parameter in inspect.signature(thing).parameters.values():
            assert parameter.kind is not parameter.VAR_KEYWORD, public
            if parameter.default is not parameter.empty:
                keyword_only = parameter.kind is parameter.KEYWORD_ONLY
                assert keyword_only or public in ALLOWED, f"{public}: {parameter.name}"


# Arguments and not options: find(alignment, folders=None), the bias after a kernel, the weight of
# each example, the identity of each image, the interval of a value, the folder of runs.
ALLOWED = {
    "find",
    "normxcorr_conv",
    "cross_input_neighbourhood_conv",
    "info_nce",
    "labelled_monitors",
    "others_of_batch",
    "pair_monitors",
    "triplet_monitors",
    "of_arrays",
    "measured",
    "runs",
}
