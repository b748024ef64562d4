"""The code of the pages runs as it stands, and names only things that exist."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import siamjax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = (*sorted(DOCS.glob("*.md")), ROOT / "README.md")
PARTS = ("data", "inference", "metrics", "models", "parallel", "pretrained", "report", "training")


def blocks_of(page, *, showing=""):
    path = ROOT / page if page == "README.md" else DOCS / page
    found = re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
    return [block for block in found if showing in block]


def run(page, *, showing=""):
    """The namespace that a page's code leaves."""
    blocks = blocks_of(page, showing=showing)
    assert blocks
    namespace = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return namespace


def table_code():
    """The code in the table of options that there are not."""
    page = (DOCS / "own_experiment.md").read_text().partition("| the line to edit |")[2]
    spans = [span for line in page.splitlines() for span in re.findall(r"`([^`]+)`", line)]
    return [span for span in spans if re.search(r"\w\(", span)]


def public_names():
    """What an experiment's file may have imported, by its short name."""
    names = {"optax": importlib.import_module("optax"), "HEADS": ()}
    for part in ("distances", "losses", "mining", *PARTS):
        module = names[part] = importlib.import_module(f"siamjax.{part}")
        names |= {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return names


def unknown(code, names):
    """Names of modules and keywords of calls in the code that do not exist."""
    names, wrong = dict(names), []
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                try:
                    found = getattr(module, alias.name)
                except AttributeError:
                    try:
                        found = importlib.import_module(f"{node.module}.{alias.name}")
                    except ModuleNotFoundError:
                        wrong.append(f"{node.module}.{alias.name}")
                        continue
                names[alias.asname or alias.name] = found
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = names.get(node.value.id)
            if inspect.ismodule(owner) and not hasattr(owner, node.attr):
                wrong.append(f"{node.value.id}.{node.attr}")
        if isinstance(node, ast.Call):
            called = None
            if isinstance(node.func, ast.Name):
                called = names.get(node.func.id)
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                called = getattr(names.get(node.func.value.id), node.func.attr, None)
            try:
                parameters = inspect.signature(called).parameters
            except (TypeError, ValueError):  # not known here, or a builtin's
                continue
            if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                continue
            given = [word.arg for word in node.keywords if word.arg]
            wrong += [f"{ast.unparse(node.func)}({arg}=)" for arg in given if arg not in parameters]
    return wrong


def test_what_does_not_exist_is_found():
    """The two tests below rest on it."""
    names = public_names()
    assert unknown("import optax\noptax.adamm(1)", names) == ["optax.adamm"]
    assert unknown("LfwNet(wide=1)", names) == ["LfwNet(wide=)"]
    assert unknown("from siamjax.data import nothing", {}) == ["siamjax.data.nothing"]
    assert unknown("from siamjax import losses\nlosses.triplet(a, b, marge=1)", {}) == [
        "losses.triplet(marge=)"
    ]


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_code_names_what_exists(page):
    for block in blocks_of(page):
        assert unknown(block, {}) == []


def test_lines_to_edit_name_what_exists():
    names = public_names()
    code = table_code()
    assert len(code) > 20
    for line in code:
        assert unknown(line, names) == [], line
        for name in re.findall(
            r"(?<![.\w])([A-Z]\w+|load_\w+|open_\w+|\w+_report|by_layer)\(", line
        ):
            assert name in names, line


# The changelog names what is gone, too.
@pytest.mark.parametrize("page", [page.name for page in PAGES if page.name != "changelog.md"])
def test_modules_and_files_that_are_named_exist(page):
    text = (DOCS / page if (DOCS / page).exists() else ROOT / page).read_text()
    for path in sorted(set(re.findall(r"`(siamjax(?:\.\w+)+)", text))):
        found = siamjax
        for depth, part in enumerate(path.split(".")[1:], start=2):
            if not hasattr(found, part):
                importlib.import_module(".".join(path.split(".")[:depth]))
            found = getattr(found, part)
    for module in set(re.findall(r"python -m\s+((?:experiments|benchmarks)\.\w+)", text)):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
    for path in set(re.findall(r"`((?:experiments|siamjax|benchmarks)/[\w/.]*)`", text)):
        assert (ROOT / path).exists(), path


def test_readme(capsys):
    """Every block runs as it stands, one after the other, and each is short."""
    blocks = blocks_of("README.md")
    assert len(blocks) == 5
    assert all(len(block.splitlines()) <= 14 for block in blocks[1:])
    statements = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(statements) <= 17
    namespace = run("README.md")
    said = capsys.readouterr().out.split("\n")
    assert 0 <= float(said[0]) <= 1
    assert "(4, 32, 32, 3)" in said[1]
    # The own loss and backbone train, and so does the step of several devices.
    state, pairs = namespace["state"], namespace["batch"]
    loss, (_, metrics) = namespace["double_margin"](
        state.params, state.model_state, pairs, jax.random.key(0)
    )
    assert np.isfinite(loss.compute())
    assert "active_fraction" in metrics
    logit, _ = namespace["own"].init_with_output(jax.random.key(0), pairs["x1"], pairs["x2"])[0]
    assert logit.shape == (8,)
    before = namespace["replicate"](namespace["state"])
    pairs = {name: np.concatenate([value] * 4) for name, value in namespace["batch"].items()}
    after, _ = namespace["step"](before, namespace["shard"](pairs))
    assert int(after.step) == 2


def test_readme_s_images_are_those_of_the_repository():
    """By addresses that also work on a package index."""
    shown = re.findall(r"!\[[^]]*\]\((\S+?)\)", (ROOT / "README.md").read_text())
    assert len(shown) >= 3
    home = "https://raw.githubusercontent.com/siamjax/siamjax/main/"
    for address in shown:
        assert address.startswith(home)
        assert (ROOT / address.removeprefix(home)).exists(), address


def test_readme_names_everything_public():
    text = (ROOT / "README.md").read_text()
    public = {
        name
        for module in (siamjax.losses, siamjax.mining)
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    }
    public |= {name for name in siamjax.models.__all__ if name not in ("Compares", "Embeds")}
    public |= set(siamjax.correlation.__all__) - {"normxcorr_by_definition"}
    assert len(public) > 20
    assert [name for name in sorted(public) if f"`{name}" not in text] == []


def tables_of_names():
    """`docs/names.md`, by module: name -> what it is."""
    sections = (DOCS / "names.md").read_text().split("\n## `")[1:]
    return {
        section.partition("`")[0]: dict(re.findall(r"^\| `(\w+)` \| (.*?) \|$", section, re.M))
        for section in sections
    }


def public_of(module):
    """A table of contents, or what a module defines without an underscore."""
    defined = [
        name
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", None) == module.__name__
    ]
    return set(getattr(module, "__all__", defined))


def test_page_of_names_has_every_public_one():
    tables = tables_of_names()
    parts = ("bootstrap", "calibration", "intervals", "open_set", "reid", "reranking", "retrieval")
    metrics = [f"metrics.{name}" for name in (*parts, "verification")]
    own = ("losses", "distances", "mining", "options", "correlation", "search")
    for name in (*own, *PARTS, *metrics):
        rows = tables.pop(f"siamjax.{name}")
        module = importlib.import_module(f"siamjax.{name}")
        assert set(rows) == public_of(module), name
        assert all(what.strip() for what in rows.values()), name
    rows = tables.pop("siamjax")
    assert set(rows) == {
        name for name in siamjax.__all__ if not inspect.ismodule(getattr(siamjax, name))
    }
    assert not tables


@pytest.mark.slow
def test_interactive_page(capsys):
    namespace = run("interactive.md")
    assert 0 <= namespace["verification"].auc(namespace["curve"]) <= 1
    assert "raw pixels" in capsys.readouterr().out
    own = next(namespace["own_batches"]())
    assert own["x1"].shape == (8, 32, 32, 3)
    assert own["same"].tolist() == [False, True] * 4
    # The pmapped step on all devices is the one that a single device makes.
    alone, metrics = namespace["step"](namespace["start"], namespace["batch"])
    for name, mean in namespace["metrics"].items():
        np.testing.assert_allclose(mean.compute(), metrics[name].compute(), rtol=1e-4, err_msg=name)
    for one, other in zip(
        jax.tree.leaves(alone.model_state),
        jax.tree.leaves(namespace["after"].model_state),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_own_loss_is_short():
    (block,) = blocks_of("interactive.md", showing="def loss_fn")
    (function,) = [node for node in ast.parse(block).body if isinstance(node, ast.FunctionDef)]
    assert function.end_lineno - function.lineno < 15


def test_normxcorr_page(capsys):
    namespace = run("normxcorr.md")
    assert namespace["mapped"].shape == (4, 37, 12, 1500)
    assert namespace["near"].shape == (4, 37, 12, 25 * 5 * 7)
    assert float(capsys.readouterr().out.split()[0]) < 1e-5


def test_pretrained_page():
    namespace = run("pretrained.md")
    assert namespace["distance"].shape == (2,)
    assert namespace["embeddings"].shape == (4, 64)
    # Triplets on the same network: with equal images the loss is the margin.
    zeros = jnp.zeros((2, 64, 64, 3), jnp.uint8)
    batch = {"anchor": zeros, "positive": zeros, "negative": zeros}
    batch |= {"identity": jnp.array([0, 1]), "negative_identity": jnp.array([1, 0])}
    variables = dict(namespace["variables"])
    params = variables.pop("params")
    loss_fn = namespace["loss_of"](namespace["network"])
    loss, (_, metrics) = loss_fn(params, variables, batch, jax.random.key(0))
    np.testing.assert_allclose(loss.compute(), 0.2, atol=1e-4)
    assert "active_fraction" in metrics


def test_info_nce_of_the_page_learns():
    """Its lines whole, with rows in place of images: in ten steps the neighbours become right."""
    import flax.linen as nn
    import optax

    from siamjax.data import of_arrays
    from siamjax.training import create_state, make_train_step

    class Head(nn.Module):
        @nn.compact
        def embed(self, x, *, train=False):
            return siamjax.distances.unit(nn.Dense(8)(x))

        __call__ = embed

    namespace = run("own_experiment.md", showing="def loss_of")
    rng, shown = np.random.default_rng(0), np.arange(48) // 6
    rows = 2 * rng.normal(size=(48, 32)) + rng.normal(size=(8, 32))[shown]
    made = namespace["batches_of"](
        SimpleNamespace(seed=0, batch_size=32, steps=20, workers=0),
        of_arrays(np.zeros((48, 4, 4, 3), np.uint8), shown),
        np.arange(48),
        4,
    )
    assert next(made())["image"].shape == (32, 4, 4, 3)
    network, optimizer = Head(), optax.adam(0.03)
    state = create_state(
        network.init(jax.random.key(0), jnp.zeros((1, 32))), optimizer, key=jax.random.key(0)
    )
    step, metrics = jax.jit(make_train_step(namespace["loss_of"](network), optimizer)), []
    for batch in made():
        images = rows[rng.integers(6, size=32) + 6 * batch["identity"]].astype(np.float32)
        state, found = step(state, {**batch, "image": images})
        metrics.append({name: float(mean.compute()) for name, mean in found.items()})
    assert metrics[0]["loss"] > 2 * metrics[-1]["loss"]
    assert metrics[0]["batch_recall_at_1"] < 0.7 < 0.9 < metrics[-1]["batch_recall_at_1"]
    assert metrics[-1]["distance_same"] < metrics[-1]["distance_different"] / 2


def test_frozen_layers_are_let_go_by_two_calls_of_fit():
    from siamjax.models import EuclideanHead, InceptionEmbedding, Siamese
    from siamjax.models.inception_v3 import layers_between

    namespace = run("pretrained.md", showing="def optimizer_of")
    groups = {
        "never": layers_between("mixed2", "mixed3"),
        "early": layers_between("mixed3", "mixed6"),
        "late": layers_between("mixed6", "mixed7"),
    }
    groups = {name: [layer.strip("/") for layer in own] for name, own in groups.items()}
    trunk = {layer: {"kernel": jnp.ones(2)} for layers in groups.values() for layer in layers}
    params = {"backbone": {"trunk": trunk, "dense": {"kernel": jnp.ones(2)}}}
    config = SimpleNamespace(learning_rate=0.1, steps=10)
    optimizer = namespace["optimizer_of"](config, begin=2)
    state, moved = optimizer.init(params), []
    gradients = jax.tree.map(jnp.ones_like, params)
    for _ in range(3):
        updates, state = optimizer.update(gradients, state, params)
        layer = updates["backbone"]["trunk"]
        moved.append({name: float(layer[own[0]]["kernel"][0]) for name, own in groups.items()})
    rate = 0.1 * 0.5 * (1 + np.cos(np.pi * np.arange(3) / 10))  # of the cosine, over all steps
    assert [step["never"] for step in moved] == [0, 0, 0]
    np.testing.assert_allclose([step["late"] for step in moved], -0.1 * rate, rtol=1e-4)
    # Adam's first step is the whole rate: it begins anew there.
    np.testing.assert_allclose([step["early"] for step in moved], [0, 0, -0.05 * rate[2]], 1e-4)

    calls = []

    def fit(run, state, step, batches, *, evaluate, until):
        calls.append((state, until))
        return state + 1

    stages = []
    namespace["fit"] = fit
    network = Siamese(backbone=InceptionEmbedding(), head=EuclideanHead())
    loss_of = stages.append
    arguments = (config, None, 0, network, optimizer, None, None, loss_of)
    assert namespace["train"](*arguments, begin=4) == 2
    assert calls == [(0, 4), (1, 10)]
    assert [(s.backbone.frozen, s.backbone.given) for s in stages] == [
        ("mixed6", "mixed3"),
        ("mixed3", "mixed3"),
    ]


def test_published_visual_search():
    """The network whole, by shapes alone, and its penalties once a batch."""
    from siamjax.training import create_state, make_train_step

    namespace = run("visual_search.md", showing="def build")
    network, loss_fn, optimizer = namespace["build"](None)
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8)
    batch = dict.fromkeys(("anchor", "positive", "negative"), image)

    def first_step(batch):
        variables = network.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3), jnp.uint8))
        state = create_state(variables, optimizer, key=jax.random.key(1))
        return make_train_step(loss_fn, optimizer)(state, batch)

    state, metrics = jax.eval_shape(first_step, batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 163_661_824
    assert {"loss", "capped_fraction", "active_fraction"} <= set(metrics)


def test_hard_negatives_of_the_page(tmp_path):
    from siamjax.data import RetrievalOptions, load_retrieval
    from siamjax.inference import Embedder
    from siamjax.inference.hard_negatives import LAG
    from siamjax.models import Vgg16Features
    from siamjax.training import initialize

    namespace = run("visual_search.md", showing="Miner(")
    things = load_retrieval(RetrievalOptions(data="emoji"))
    config = SimpleNamespace(seed=0, batch_size=4, category="category", workers=0, steps=9)
    network = Vgg16Features(depth=1, width=0.1, preprocessing="unit")
    variables, _ = initialize(network, 8, 0)
    lines = namespace["lines_of_main"](
        config,
        SimpleNamespace(folder=tmp_path, step=5),
        things,
        lambda variables: Embedder(network=network, variables=variables, size=8),
    )
    drawn, evaluate = lines
    start = (5 + LAG) * config.batch_size
    before = [drawn[start + place] for place in range(200)]
    assert set(evaluate(variables)) == {"validation_recall_at_1", "validation_map_at_r"}
    assert (tmp_path / "mined" / "5.npy").exists()
    after = [drawn[start + place] for place in range(200)]
    assert [drawn[place][:2] for place in range(start, start + 200)] == [b[:2] for b in before]
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    assert 60 < changed < 140  # half of the negatives


def own_experiment(folder, *arguments, devices=1):
    """Run a command in the folder of ``one_shot.py``."""
    cache = ROOT / ".pytest_cache" / "jax"
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    """The two files of `own_network.md` in a folder that modules are imported from."""
    for name, code in zip(
        ("own_networks", "train_own"), blocks_of("own_network.md")[:2], strict=True
    ):
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setitem(sys.modules, name, None)  # so that it is forgotten afterwards
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("train_own")


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("linen", "nnx")), "function"],
)
def test_own_network_is_trained_saved_and_embeds(own_network, tmp_path, kind):
    """The page's files: a run of two steps on the embedded faces, reopened, embeds as it did."""
    from siamjax.models.applying import evaluate
    from siamjax.training import Finished, initialize

    run = tmp_path / "run"
    options = {"batch_size": 16, "steps": 2, "evaluate_every": 2, "kind": kind, "run": run}
    own_network.main(own_network.Config(**options))
    opened = Finished.open(run, trust=("own_networks",))
    fresh, _ = initialize(opened.network, opened.size, 0)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), opened.variables, fresh)
    assert set(changed["params"]["backbone"]) >= {"linen": {"Conv_0"}}.get(
        kind, {"network" if kind == "nnx" else "function"}
    )
    assert all(jax.tree.leaves(changed.get("batch_stats", {})))
    assert any(jax.tree.leaves(changed["params"]))
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    rows = evaluate(opened.network, opened.variables, images, method="embed")
    assert rows.shape == (3, 32)
    network = own_network.own_networks.NETWORKS[kind]
    below = {name: tree["backbone"] for name, tree in opened.variables.items()}
    np.testing.assert_allclose(evaluate(network, below, images), rows, rtol=1e-5, atol=1e-6)


def test_a_linen_module_from_elsewhere(rng):
    import flax.linen as nn

    class Foreign(nn.Module):
        @nn.compact
        def __call__(self, x, *, deterministic):
            x = nn.Dropout(0.5, deterministic=deterministic)(x.mean(axis=(1, 2)))
            return {"pooled": nn.Dense(4)(x), "maps": x}

    around = run("own_network.md", showing="class Around")["Around"](network=Foreign())
    variables, _ = siamjax.training.initialize(around, 8, 0)
    assert set(variables["params"]) == {"network"}
    x = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    rows = around.apply(variables, x)
    trained = around.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert rows.shape == trained.shape == (2, 4)
    assert not np.allclose(rows, trained)


@pytest.mark.slow
def test_experiment_of_an_unknown_kind(tmp_path):
    """The file of the page, whole, on 1 and 2 devices; its run is used by a command."""
    (code,) = blocks_of("own_experiment.md", showing='if __name__ == "__main__"')
    assert 60 <= len(code.splitlines()) <= 130
    (tmp_path / "one_shot.py").write_text(code)
    options = ["--steps", "3", "--batch-size", "8", "--log-every", "1", "--evaluate-every", "3"]
    losses = []
    for devices in (1, 2):
        folder = tmp_path / f"run{devices}"
        said = own_experiment(tmp_path, "one_shot", *options, "--run", folder.name, devices=devices)
        assert "chance" in said
        rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[0][0], losses[1][0], rtol=1e-5)
    # Adam's first update is the gradients' signs, also where rounding decides them.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert (folder / "report.html").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["network"]["class"] == "one_shot:FourBlocks"
    results = manifest["results"]
    assert set(results) == {"network", "raw pixels 32x32", "chance"}
    assert results["raw pixels 32x32"]["accuracy"] > results["chance"]["accuracy"] == 0.2
    trusted = ("--run", folder.name, "--trust", "one_shot")
    own_experiment(tmp_path, "siamjax", "export", *trusted, "--out", "model")
    assert (tmp_path / "model" / "score.stablehlo").exists()
    assert "Conv_3" in own_experiment(tmp_path, "siamjax", "inspect", *trusted)


def test_clipped_averaged_extended_and_stopped_early(tmp_path):
    """The lines of the page in an experiment on a small network."""
    import tiny_run

    namespace = run("own_experiment.md", showing="def optimizer_of")
    optimizer = namespace["optimizer_of"](SimpleNamespace(learning_rate=0.1))
    state = optimizer.init(params := tiny_run.variables_of()["params"])
    # Adam does not see how long gradients are, if all are; it sees that a longer one was clipped.
    long, short = (jax.tree.map(lambda w, s=s: s * jnp.ones_like(w), params) for s in (9.0, 0.01))
    _, clipped = optimizer.update(long, state, params)
    moments = jax.tree.leaves(clipped.inner[1][0].mu)
    np.testing.assert_allclose(sum((leaf**2).sum() for leaf in moments), 0.1**2, rtol=1e-5)
    _, kept = optimizer.update(short, state, params)
    np.testing.assert_allclose(jax.tree.leaves(kept.inner[1][0].mu)[0], 0.1 * 0.01, rtol=1e-5)

    step, scores = tiny_run.train_step(optimizer=optimizer), iter([3.0, 4.0] + [0.0] * 5)

    def train(steps):
        config = tiny_run.Config(run=tmp_path / "run", steps=steps, evaluate_every=1)
        arguments = (tiny_run.NETWORK, tiny_run.SPLITS, tiny_run.variables_of())
        rest = (jax.random.key(0), optimizer, step, tiny_run.batches)
        trained = namespace["train"](
            config, *arguments, *rest, lambda variables: {"score": next(scores)}
        )
        trained.close()
        return trained

    assert (train(1).step, train(2).step) == (1, 2)
    stopped = train(100)
    assert stopped.step == 7  # the best was that of step 2
    stopped.best_variables()
    siamjax.report.write_report(stopped, {"network": {"score": 4.0}}, size=4)
    assert (
        "Training stopped at step 7 of 100: 5 validations without a better score."
        in ((tmp_path / "run" / "report.html").read_text().split("<h2>Manifest</h2>")[0])
    )


def test_no_placeholder_is_left():
    for page in PAGES:
        assert not re.findall(r"@[A-Z]+@", page.read_text()), page


def masked(line):
    """A line without its numbers and without where the page was run."""
    return re.sub(r"\(/\S+\)", "(/)", re.sub(r"\d[\d.,]*(e-?\d+)?", "0", line)).strip()


@pytest.mark.slow
def test_the_page_from_a_run_to_a_decision_is_true(tmp_path):
    """Its commands in their order, and what they print but for numbers and neighbours."""
    text = (DOCS / "decision.md").read_text()
    code, consoles = blocks_of("decision.md"), re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    environment = dict(os.environ, PYTHONPATH=str(ROOT), XLA_FLAGS="")

    def output(words):
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output([sys.executable, "-c", *code])
    checked = 0
    for command in "".join(consoles).split("$ python ")[1:]:
        words, *expected = command.splitlines()
        if "compare" in words or words.endswith("runs"):
            continue  # shown without output, and with a run that the page does not make
        printed = [masked(line) for line in output([sys.executable, *words.split()]).splitlines()]
        for line in expected:
            # Which neighbours come first, and how many match, depends on the last digits.
            if line and line != "..." and not re.match(r"\s+(\d|no match from)", line):
                assert masked(line) in printed, (words, line, printed)
                checked += 1
    assert checked > 20
    assert "no match" in output(
        [sys.executable, "-m", "siamjax", "search", "door/s40/01.png", "--index", "index"]
    )
