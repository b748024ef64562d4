"""Every reader of what somebody else wrote: whole inputs to begin with, and what reads them.

A new reader is a function here that is decorated with ``@reader``. It gets a folder in which it may
make files, and returns ``(seeds, specials, read)``: trees that are right, trees that once went
wrong, and a function that reads the tree in a folder and may assert what holds for every answer.
"""

import dataclasses
import io
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mutations import NoFile, Tree
from PIL import Image

TESTS = Path(__file__).parents[1]
for folder in (
    TESTS,
    TESTS / "data",
    TESTS / "pretrained",
    TESTS / "search",
    TESTS / "cases",
    TESTS.parent,
):
    sys.path.insert(0, str(folder))


@dataclasses.dataclass
class Reader:
    """How many inputs it gets in the slow tests, and how its inputs are made."""

    inputs: int
    made: Callable[[Path], tuple[list[Tree], list[Tree], Callable[[Path], object]]]
    read: Callable[[Path], object] = lambda folder: None

    def make(self, folder: Path) -> tuple[list[Tree], list[Tree]]:
        """Seeds and specials; from then on, :attr:`read` is what reads them."""
        folder.mkdir(exist_ok=True)
        seeds, specials, self.read = self.made(folder)
        return seeds, specials


READERS: dict[str, Reader] = {}


def reader(*, inputs: int = 1000):
    """Add the function to the readers, under its name."""

    def added(function):
        READERS[function.__name__] = Reader(inputs, function)
        return function

    return added


def tree_of(folder: Path) -> Tree:
    """The files below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def image(seed=0, *, kind="PNG", mode="RGB", size=(9, 7), **options) -> bytes:
    """An encoded image of noise."""
    rng = np.random.default_rng(seed)
    pixels = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).convert(mode)
    content = io.BytesIO()
    pixels.save(content, kind, **options)
    return content.getvalue()


def packed(tree: Tree, kind: str) -> bytes:
    """The tree as an archive."""
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, inside in tree.items():
                archive.writestr(name, inside)
    else:
        with tarfile.open(fileobj=content, mode="w:gz") as archive:
            for name, inside in tree.items():
                member = tarfile.TarInfo(name)
                member.size = len(inside)
                archive.addfile(member, io.BytesIO(inside))
    return content.getvalue()


# Images


@reader(inputs=3000)
def images(folder):
    from PIL import ImageCms

    from siamjax.data.decoding import FORMATS
    from siamjax.data.images import of_files

    seeds = [{"a.png": image(n, kind=kind)} for n, kind in enumerate(FORMATS)]
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    seeds += [{"a.png": image(kind=kind, icc_profile=profile)} for kind in ("TIFF", "PNG")]
    for mode in ("L", "LA", "P", "RGBA", "1"):
        seeds.append({"a.png": image(mode=mode)})
    seeds += [{"a.png": image(kind="TIFF", mode=mode)} for mode in ("CMYK", "I;16")]
    turned = Image.Exif()
    turned[0x0112] = 6
    seeds.append({"a.png": image(kind="JPEG", exif=turned)})
    encoded = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(encoded, "PNG")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    specials = [{"a.png": encoded.getvalue()}, {"a.png": postscript}, {"a.png": NoFile.ZERO}]

    def read(place):
        pixels = of_files([place / "a.png"], name="fuzz").image(0)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size

    return seeds, [*specials, {"a.png": NoFile.PIPE}], read


def people_tree(people=3, *, suffix="png") -> Tree:
    return {f"p{n // 2}/{n % 2}.{suffix}": image(n) for n in range(2 * people)}


@reader()
def people_folder(folder):
    from siamjax.data.verification import load_images

    def read(place):
        images = load_images(str(place))
        images.checksum()
        assert len({*images.keys}) == len(images) > 0

    odd = {"p\u2028$x^$/a\n.png": image(1), "p\udcff/b.png": image(2)}
    return [people_tree(), {**people_tree(), **odd}], [], read


@reader()
def pair_list(folder):
    from siamjax.data.lists import listed_images

    lines = "p0/0.png p0/1.png 1\n# a word\np0/0.png p1/0.png 0\np1/1.png p2/0.png 0\n"
    tabs = lines.replace(" ", "\t")

    def read(place):
        images, (pairs,) = listed_images(place / "pairs.txt")
        assert pairs.same.dtype == bool
        assert len(pairs.same) > 0
        images.checksum()

    trees = [{**people_tree(), "pairs.txt": text.encode()} for text in (lines, tabs)]
    return trees, [], read


@reader()
def triplets(folder):
    from siamjax.data.triplet_lists import read_triplets

    def read(place):
        rows = read_triplets(place / "triplets.txt", rows=6)
        assert rows.shape[1] == 3
        assert rows.min() >= 0
        assert rows.max() < 6

    return [{"triplets.txt": b"0 1 2\n3 4 5\n"}, {"triplets.txt": b"q,p,n\n0,1,2\n"}], [], read


def catalogue_read(name):
    def read(place):
        from siamjax.data.open_catalogue import open_catalogue

        catalogue = open_catalogue(str(place / name))
        images = catalogue.images
        assert len({*images.keys}) == len(images) > 0
        for column in catalogue.attributes.values():
            assert len(column) == len(images)

    return read


@reader()
def table(folder):
    names = "id,image,item,color\n"
    rows = 'a,p0/0.png,x,"red, or ""rose"""\nb,p0/1.png,x,"two\nlines"\nc,p1/0.png,y,\n'
    texts = [names + rows, (names + rows).replace(",", "\t"), names.replace("item", "size") + rows]
    wide = ",".join(map(str, range(50_000))) + "\n"
    trees = [{**people_tree(2), "items.csv": text.encode()} for text in texts]
    return trees, [{"items.csv": wide.encode()}], catalogue_read("items.csv")


@reader()
def catalogue_folder(folder):
    return [people_tree(), {"a.jpg": image(kind="JPEG"), "b.png": image()}], [], catalogue_read("")


@reader()
def online_products(folder):
    lines = "image_id class_id super_class_id path\n"
    train = lines + "1 1 1 a_final/1_0.JPG\n2 1 1 a_final/1_1.JPG\n"
    test = lines + "3 2 1 a_final/2_0.JPG\n4 2 1 a_final/2_1.JPG\n"
    tree: Tree = {"Ebay_train.txt": train.encode(), "Ebay_test.txt": test.encode()}
    tree |= {f"a_final/{one}.JPG": image(kind="JPEG") for one in ("1_0", "1_1", "2_0", "2_1")}
    return [tree], [], catalogue_read("")


# Published sets


def named_images(keys):
    from siamjax.data.images import Arrays, ImageSet

    return ImageSet(
        name="fuzz",
        credit="",
        keys=tuple(keys),
        identities=np.array([key[:5] for key in keys]),
        source=Arrays([np.zeros((2, 2), np.uint8)] * len(keys)),
    )


@reader()
def lfw_pairs(folder):
    from siamjax.data.datasets import lfw

    images = named_images([f"P_{one}/P_{one}_{n:04d}.jpg" for one in "ABCD" for n in (1, 2, 3)])
    view_2 = b"2\t1\nP_A\t1\t2\nP_A\t3\tP_B\t1\nP_C\t1\t2\nP_C\t3\tP_D\t1\n"
    view_1 = b"2\nP_A\t1\t2\nP_B\t1\t2\nP_A\t3\tP_B\t1\nP_C\t3\tP_D\t1\n"

    def read(place):
        pairs = lfw.read_pairs(place / "pairs.txt", images)
        assert pairs.same.dtype == bool

    return [{"pairs.txt": view_2}, {"pairs.txt": view_1}], [], read


@reader()
def archives(folder):
    from siamjax.data.archives import collect, content_of

    tree = {f"CUHK01/{n:04d}001.png": image(n) for n in range(3)}

    def read(place):
        path = next(place.iterdir(), place)
        for name, found in collect(path, lambda path: path.name or None).items():
            assert name
            content_of(found)

    zeros = io.BytesIO()
    with (
        zipfile.ZipFile(zeros, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.png", "w", force_zip64=True) as member,
    ):
        for _ in range(3 * 2**10):
            member.write(bytes(2**20))
    seeds = [
        {"a.zip": packed(tree, "zip")},
        {"a.tgz": packed(tree, "tgz")},
        {"a.tar.gz": packed(tree, "tgz")},
    ]
    return seeds, [{"a.zip": zeros.getvalue()}], read


@reader()
def market_folder(folder):
    from siamjax.data import ReidOptions, load_reid

    tree: Tree = {}
    for person in range(1, 9):
        for camera in (1, 2):
            part = "bounding_box_train" if person <= 5 else "bounding_box_test"
            tree[f"{part}/{person:04}_c{camera}s1_000.png"] = image(10 * person + camera)
        if person > 5:
            tree[f"query/{person:04}_c1s1_001.png"] = image(person)

    def read(place):
        splits = load_reid(ReidOptions(data=str(place), validation_people=2))
        assert splits.cameras.min() >= 0

    return [tree], [], read


def matlab_file(**variables):
    from reid_trees import save_v5

    def tree(folder: Path, name: str) -> Tree:
        save_v5(folder / name, **variables)
        return {name: (folder / name).read_bytes()}

    return tree


@reader(inputs=1000)
def grid_partitions(folder):
    from siamjax.data.datasets.grid import read_partitions

    cells = np.empty((10, 1), object)
    for row in range(10):
        cells[row, 0] = np.random.default_rng(row).permutation(250)[None, :125] + 1.0

    def read(place):
        for trained in read_partitions(place / "features_and_partitions.mat"):
            assert len({*trained}) == 125

    return [matlab_file(trainIdxAll=cells)(folder, "features_and_partitions.mat")], [], read


def cuhk03_boxes():
    rng = np.random.default_rng(0)

    def person(taken):
        cells: list[np.ndarray | None] = [None] * 10
        for number in taken:
            cells[number] = rng.integers(0, 256, (6, 4, 3), np.uint8)
        return cells

    return {
        name: [[person((0, 1, 5, 8)) for _ in range(3)] for _ in range(5)]
        for name in ("labeled", "detected")
    }


@reader()
def cuhk03_images(folder):
    from reid_trees import save_cuhk03

    from siamjax.data.datasets import cuhk03

    sets = [[[1 + n % 5, 1 + n // 5] for n in range(10)]] * 20
    save_cuhk03(folder / "cuhk-03.mat", cuhk03_boxes(), sets)
    cuhk03.PEOPLE, cuhk03.TESTED = (3,) * 5, 10
    cuhk03.IMAGES = dict.fromkeys(cuhk03.IMAGES, 60)

    def read(place):
        builder = cuhk03.Cuhk03(boxes="labeled", home=place, data_dir=folder / "prepared")
        assert len(list(builder._images())) == 60
        assert len(cuhk03.read_test_sets(place / "cuhk-03.mat")) == 20

    return [{"cuhk-03.mat": (folder / "cuhk-03.mat").read_bytes()}], [], read


@reader()
def cuhk03_protocol(folder):
    from reid_trees import cuhk03_config, cuhk03_files

    from siamjax.data.datasets import cuhk03

    boxes = cuhk03_boxes()["labeled"]
    images = named_images([*cuhk03_files(boxes)])
    cameras = np.array([int(key[6]) for key in images.keys])
    config, name = cuhk03_config(boxes), "cuhk03_new_protocol_config_labeled.mat"
    parts = "train_idx", "query_idx", "gallery_idx"
    cuhk03.COUNTS = {"labeled": tuple(len(config[part]) for part in parts)}

    def read(place):
        cuhk03.read_config(place / name, images, cameras, boxes="labeled")

    return [matlab_file(**config)(folder, name)], [], read


# Published weights


def read_all_weights(path):
    import test_reading

    from siamjax.pretrained import published_form, read_weights

    published_form.published_shapes = test_reading.tiny_shapes
    weights = read_weights(path, preprocessing="unit" if path.suffix == "" else None)
    assert weights.digest
    for name, tensor in weights.tensors.items():
        assert tensor.dtype.kind in "fiu", name
        assert np.isfinite(tensor).all(), name


def weights_reader(name, write):
    """``write(test_reading, path)`` writes weights in the layout of one library."""

    def made(folder):
        import test_reading

        write(test_reading, folder / name)
        return [tree_of(folder)], [], lambda place: read_all_weights(place / name)

    made.__name__ = write.__name__
    return reader()(made)


def keras_1(files, path):
    layers = {
        layer: {f"{layer}_{short}_1": own[kind] for short, kind in (("W", "kernel"), ("b", "bias"))}
        for layer, own in files.vgg().items()
    }
    files.write_h5(path, layers)


def keras_2(files, path):
    files.write_h5(path, files.inception(), inside="model_weights", encode=True)


def keras_3(files, path):
    files.write_keras3(path, files.vgg(), named=True)


def tensorflow_js(files, path):
    files.write_tfjs(path, files.inception(), quantize=("conv2d_3",))


def npz(files, path):
    np.savez(
        path, **{f"{k}/{kind}": t for k, own in files.vgg().items() for kind, t in own.items()}
    )


def safetensors(files, path):
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(t) for name, t in files.torch_vgg().items()}, path)


for name, write in (
    *(("w.h5", keras_1), ("w.h5", keras_2), ("w.weights.h5", keras_3), ("m", tensorflow_js)),
    *(("w.npz", npz), ("w.safetensors", safetensors)),
):
    weights_reader(name, write)


@reader()
def torch(folder):
    import files_and_commands
    import test_reading
    import test_torch_files

    tensors = test_reading.torch_vgg()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("w/data.pkl", files_and_commands.torch_pickle(tensors))
        for key, tensor in enumerate(tensors.values()):
            archive.writestr(f"w/data/{key}", tensor.tobytes())
    storages = {f"s{key}": tensor.ravel() for key, tensor in enumerate(tensors.values())}
    pickled = files_and_commands.torch_pickle(tensors)
    older = test_torch_files.before_archives(folder / "w.pth", pickled, **storages)
    seeds: list[Tree] = [{"w.pth": content.getvalue()}, {"w.pth": older.read_bytes()}]
    return seeds, [], lambda place: read_all_weights(place / "w.pth")
