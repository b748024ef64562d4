"""Readers of the project's own files: runs, indexes, scores; and its command line."""

import json
import math
import shutil

import numpy as np
from mutations import write_tree
from readers import READERS as READERS
from readers import image, named_images, people_tree, reader, tree_of


def run_tree(folder):
    """A finished run of the smallest network, written as an experiment writes it; untrained."""
    import optax

    from siamjax.data import VerificationOptions, load_verification
    from siamjax.models import EuclideanHead, LfwNet, Siamese
    from siamjax.training import Run, RunConfig, create_state, initialize

    if not (folder / "run").exists():
        write_tree(folder / "people", people_tree(6))
        options = VerificationOptions(
            data=str(folder / "people"), validation_people=2, test_people=2
        )
        network = Siamese(backbone=LfwNet(width=0.05), head=EuclideanHead())
        config = RunConfig(run=folder / "run", batch_size=8, steps=2)
        run = Run.open(config, network, load_verification(options), best="auc")
        run.begin()
        variables, key = initialize(network, (16, 24), 0)
        run.checkpoints.save(create_state(variables, optax.sgd(0.1), key=key), {"auc": 0.5})
        run.note_session(start=0, seconds=1.0)
        run.best_variables()
        results = {"network": {"accuracy": 0.5, "auc": None}}
        facts = {"threshold": 0.25, "measure": "distance"}
        run.write_manifest(size=(16, 24), results=results, facts=facts)
        rows = [{"step": step, "loss": 0.5, "auc": 0.25 * step} for step in range(3)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "run" / "metrics.jsonl").write_text(text)
    return tree_of(folder / "run")


@reader(inputs=100)
def finished_run(folder):
    from siamjax.inference.verification import Verifier

    def read(place):
        first = np.zeros((16, 24, 3), np.uint8)
        distance, _ = Verifier.open(place).compare(first, first)
        assert distance == 0

    return [run_tree(folder)], [], read


@reader(inputs=200)
def exported_run(folder):
    """What opens as a run; JAX alone reads the rest of the folder."""
    from siamjax.inference.export import export_run
    from siamjax.inference.verification import Verifier
    from siamjax.training import Finished

    run_tree(folder)
    if not (folder / "exported").exists():
        export_run(Finished.open(folder / "run"), folder / "exported", platforms=("cpu",))
    names = "manifest.json", "model.safetensors"

    def read(place):
        first = np.zeros((16, 24, 3), np.uint8)
        distance, _ = Verifier.open(place).compare(first, first)
        assert distance == 0

    return [{name: (folder / "exported" / name).read_bytes() for name in names}], [], read


@reader()
def calibration(folder):
    """What ``calibrate`` writes, and what it asks a run about."""
    from colours import colour_run, coloured

    from siamjax.inference import Calibration, calibrate, compare_people
    from siamjax.search.unknowns import open_set_of
    from siamjax.training.seen import Seen

    run = colour_run(folder)
    compared = compare_people(run, coloured(30, each=2), progress=False)
    made = calibrate(compared)
    made.open_set = open_set_of(compared, gallery=5)
    made.write(run)
    seen = Seen(trained=["0123456789abcdef"], chose=["0" * 16], people=["anna"])
    seen.write(folder)

    def read(place):
        Seen.read(place)
        found = Calibration.read(colour_run(place))
        for value in (-1e300, 0.0, 30.0, 1e300) if found else ():
            point = found.at(value)
            assert 0 <= point.fmr <= 1
            assert math.exp(found.ratio(value)) > 0
            assert 0 <= found.posterior(value, prior=0.01) <= 1
        if found:
            found.search("cosine", images=9)

    names = "calibration.json", "seen.json"
    return [{name: (folder / name).read_bytes() for name in names}], [], read


@reader()
def run_texts(folder):
    """What resuming, listing and comparing read beside the checkpoints."""
    from siamjax.data.transforms import sides
    from siamjax.inference import across_folds
    from siamjax.runs import differences, list_runs
    from siamjax.training.finished import read_manifest
    from siamjax.training.writers import read_metrics

    whole = run_tree(folder)
    names = "config.json", "manifest.json", "metrics.jsonl", "sessions.jsonl"
    manifest = json.loads(whole["manifest.json"]) | {"data": "lfw/funneled"}
    folds = []
    for fold in (1, 2):
        own = manifest | {"splits": {"lfw_fold": fold}}
        own["config"] = {**manifest["config"], "lfw_fold": fold}
        own["results"] = {"network": {"accuracy": 0.5, "auc": 0.5}}
        folds.append(json.dumps(own).encode())
    tree = {name: whole[name] for name in names} | {"other/manifest.json": folds[1]}

    def read(place):
        for one in list_runs(place):  # damage of any kind is listed, and not refused
            assert one.state != "finished" or one.step is not None
        for row in read_metrics(place):
            assert row["step"] >= 0
        manifest, _ = read_manifest(place)
        assert min(sides(manifest.images)) > 0
        assert differences([manifest.config, manifest.config]) == {}
        if (place / "other").exists():
            across_folds([place, place / "other"])

    return [tree | {"manifest.json": folds[0]}], [], read


@reader()
def resumed_run(folder):
    from siamjax.data import VerificationOptions, load_verification
    from siamjax.models import EuclideanHead, LfwNet, Siamese
    from siamjax.training import Run, RunConfig

    whole = run_tree(folder)
    tree = {name: whole[name] for name in ("config.json", "sessions.jsonl")}
    options = VerificationOptions(data=str(folder / "people"), validation_people=2, test_people=2)
    network, splits = Siamese(LfwNet(width=0.05), EuclideanHead()), load_verification(options)

    def read(place):
        # As it was begun, in another folder: where a run is changes no result.
        config = RunConfig(run=place, batch_size=8, steps=2)
        run = Run.open(config, network, splits, best="auc", extendable=True)
        run.environment = {}  # git is asked about the code, and not about what lies there
        run.begin()

    return [tree], [], read


@reader()
def network_description(folder):
    import flax.linen as nn

    from siamjax.models import EuclideanHead, InceptionEmbedding, LfwNet, Siamese, VisualSearchNet
    from siamjax.training.description import build_module, describe_module

    networks = [
        Siamese(LfwNet(width=0.05), EuclideanHead()),
        VisualSearchNet(),
        InceptionEmbedding(),
        nn.Dense(3, dtype=np.float16, kernel_init=nn.initializers.zeros),
    ]

    def read(place):
        from siamjax.files import read_json

        build_module(read_json(place / "network.json", object))

    trees = [{"network.json": json.dumps(describe_module(one)).encode()} for one in networks]
    names = "os:system", "evil_module:Thing", "antigravity:x", "lib2to3.__main__:x", ".x:y"
    odd = [{"class": name, "fields": {}} for name in (*names, "jax.numpy:save")]
    return trees, [{"network.json": json.dumps(one).encode()} for one in odd], read


@reader()
def arrays(folder):
    from siamjax.array_files import read_npy

    for name, array in (
        ("a", np.arange(12).reshape(3, 4)),
        ("b", np.ones((2, 3), ">f4", order="F")),
    ):
        np.save(folder / f"{name}.npy", array)
    trees = [{"a.npy": (folder / f"{name}.npy").read_bytes()} for name in "ab"]

    def read(place):
        assert read_npy(place / "a.npy", kinds="iuf").dtype.kind in "iuf"

    return trees, [], read


@reader()
def mined_negatives(folder):
    from siamjax.data import MinedTriplets
    from siamjax.data.catalogue import Catalogue
    from siamjax.inference import Miner

    images = named_images([f"item{n // 2}/{n}.png" for n in range(12)])
    catalogue, training = Catalogue(images=images, attributes={}), np.arange(12)
    np.save(folder / "10.npy", np.arange(120, dtype=np.int32).reshape(6, 2, 10) % 12)

    def read(place):
        triplets = MinedTriplets(catalogue, training, seed=0, batch_size=4, category=None)
        Miner(triplets, images, training, folder=place)

    return [{"10.npy": (folder / "10.npy").read_bytes()}], [], read


@reader()
def score_record(folder):
    from siamjax.inference.record import DiskRecord

    about = {"network": "A", "size": [8, 4]}

    def opened(place):
        return DiskRecord(
            place / "scores.npy", about=about, scores=(5, 8), features=(3, 4), total=2
        )

    record = opened(folder)
    record.put_features(np.ones((3, 4), np.float32))
    record.put_scores((slice(0, 5), slice(0, 4)), np.ones((5, 4), np.float32))

    def read(place):
        assert 0 <= opened(place).tiles <= 2

    return [tree_of(folder)], [], read


def index_tree(folder):
    """An index of 40 rows in two segments, one of which is removed."""
    from test_nearest import index_of

    rows = np.random.default_rng(0).normal(size=(40, 6)).astype("f4")
    if not (folder / "index").exists():
        names = np.array([f"c{n % 3}" for n in range(40)])
        index_of(folder / "index", rows, segments=2, attributes={"color": names}).remove(["i7"])
    return tree_of(folder / "index"), rows


@reader()
def search_index(folder):
    from siamjax.search.index import Index
    from siamjax.search.nearest import nearest

    tree, rows = index_tree(folder)
    right = nearest(rows[:3], Index.open(folder / "index"), top=4)

    def read(place):
        index = Index.open(place)
        kept = index.where([("color", "c1")])
        assert len(kept) == len(index.kept)
        ids = [item.id for _, item in index.items()]
        assert len({*ids}) == len(ids)
        found = nearest(rows[:3], index, top=4)
        if index.kept.sum() == 39:
            assert np.array_equal(found.rows, right.rows), "wrong neighbours"

    return [tree], [], read


@reader()
def index_in_the_making(folder):
    from siamjax.search.index import Index, writing
    from siamjax.search.index_making import Making
    from siamjax.search.index_segment import Item

    place = folder / "making"
    shutil.rmtree(place, ignore_errors=True)
    index = Index.create(place, fingerprint={"network": "A"}, features=3, dtype="float32")
    with writing(place):
        making = Making(index, catalogue="noise", attributes=("color",))
        items = [Item(f"i{n}", "", "", "noise", {"color": "red"}) for n in range(4)]
        making.append(items, np.ones((4, 3), np.float32))

    def read(place):
        index = Index.open(place)
        with writing(place):
            making = Making(index, catalogue="noise", attributes=("color",))
            assert len([*making.written()]) <= 5

    return [tree_of(place)], [], read


@reader()
def approximate_search(folder):
    from siamjax.search import approximate
    from siamjax.search.index import Index

    tree, rows = index_tree(folder)
    approximate(rows[:2], Index.open(folder / "index"), top=3)
    tree = tree_of(folder / "index")

    def read(place):
        found = approximate(rows[:2], Index.open(place), top=3)
        assert found.rows.shape == (2, 3)

    return [tree], [], read


@reader(inputs=200)
def prepared_set(folder):
    from siamjax.data.prepared import ImageBuilder, prepared_images

    class Small(ImageBuilder, skip_registration=True):
        """Four images."""

        encoding = "png"
        about = "four images"

        def _images(self):
            for n in range(4):
                yield f"p{n // 2}/{n}.png", f"p{n // 2}", image(n), {"camera": 1}

    def opened(place):
        return prepared_images(Small(data_dir=place), credit="")

    if not (folder / "tfds").exists():
        opened(folder / "tfds")

    def read(place):
        images = opened(place)
        assert len(images) == 4
        assert images.image(3).shape == (9, 7, 3)

    return [tree_of(folder / "tfds")], [], read


@reader(inputs=500)
def command_line(folder):
    """Words that no shell made; the status is what a script sees."""
    import os
    import sys

    from siamjax.__main__ import main
    from siamjax.files import read_bytes

    write_tree(folder / "people", people_tree(1))
    commands = [
        ["verify", "a.png", "b.png", "--run", "r"],
        ["evaluate", "--run", "r", "--limit", "5"],
        ["rank", "a.png", "--gallery", str(folder / "people"), "--run", "r", "--top", "3"],
        ["embed", str(folder / "people"), "--run", "r", "--out", "i", "--chunk", "4"],
        ["search", "a.png", "--index", "i", "--top", "3", "--where", "color=red"],
        ["inspect", "--run", "r", "--image", "a.png", "--out", "o"],
        ["weights", "convert", "a.h5", "--out", "b.npz"],
        ["export", "--run", "r", "--out", "o"],
    ]

    def read(place):
        words = read_bytes(place / "words.txt", limit=2**20).replace(b"\0", b"").split(b"\n")
        sys.argv = ["siamjax", *map(os.fsdecode, words)]
        try:
            main()
        except SystemExit as end:
            if not end.code:
                raise ValueError("status 0, and nothing can have been done") from None

    trees = [{"words.txt": "\n".join(words).encode()} for words in commands]
    return trees, [], read
