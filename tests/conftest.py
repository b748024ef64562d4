"""Eight CPU devices, one TFDS folder for the session, and a compilation cache between runs."""

import functools
import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
# In the environment, so that the commands that tests start use it too.
CACHE = Path(__file__).parent.parent / ".pytest_cache"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# JAX keeps many small objects; Python's usual thresholds look among them too often, which takes a
# sixth of the time. Before siamjax, which brings back what it found.
gc.set_threshold(50_000, 20, 50)

import pytest  # noqa: E402

from siamjax import use_fast_cpu_kernels  # noqa: E402

if TYPE_CHECKING:
    from siamjax.data.images import ImageSet

use_fast_cpu_kernels()

# A folder for each worker of pytest-xdist: two cannot prepare one data set at once.
TFDS = CACHE / f"tfds-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
os.environ["TFDS_DATA_DIR"] = str(TFDS)  # read when TFDS is imported

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402


def on_a_large_stack(call):
    """``call()``, with a large piece of Python's stack below it.

    Python 3.11 keeps its stack in pieces of 16 KB. Where a loop calls functions at the end of one,
    each call asks the system for a piece and gives it back: a sixth of the time of JAX's deep
    calls. This frame claims more than half of 1 MB; the calls below it use the rest.
    """
    return call()


on_a_large_stack.__code__ = on_a_large_stack.__code__.replace(co_stacksize=70_000)


def pytest_collection_modifyitems(items):
    """The tests of faults wait for many minutes: beside all others, and not behind them."""
    items.sort(key=lambda item: item.path.name != "test_faults.py")


def pytest_itemcollected(item):
    item.setup = functools.partial(on_a_large_stack, item.setup)
    item.runtest = functools.partial(on_a_large_stack, item.runtest)


@pytest.fixture
def collected():
    """What a test leaves to the garbage collector, such as Orbax's other errors, comes up in it."""
    gc.freeze()  # all that was there before, through which the collector would look for a second
    yield
    gc.collect()
    gc.unfreeze()


# Fixtures import the data: the tests marked accelerator run where grain and TFDS are missing.
@pytest.fixture(scope="session")
def faces() -> "ImageSet":
    """The embedded faces, through their TFDS builder."""
    from siamjax.data.datasets.orl_faces import CREDIT, OrlFaces
    from siamjax.data.prepared import prepared_images

    return prepared_images(OrlFaces(), credit=CREDIT)


@pytest.fixture(scope="session")
def face_folder(faces, tmp_path_factory) -> Path:
    """Eight people with five images each, as files."""
    folder = tmp_path_factory.mktemp("people")
    for index, key in enumerate(faces.keys):
        person, name = key.split("/")
        if int(person[1:]) <= 8 and int(name[:2]) <= 5:
            (folder / person).mkdir(exist_ok=True)
            Image.fromarray(faces.image(index)).save(folder / key)
    return folder


@pytest.fixture(scope="session")
def market(tmp_path_factory) -> Path:
    """Four people to train on and validate, two to test; two images in each of two tracklets."""
    from siamjax.data import ReidOptions, load_reid

    folder = tmp_path_factory.mktemp("small_market")
    splits = load_reid(ReidOptions())
    images, cameras = splits.images, splits.cameras

    def tracklets(person: str) -> list[int]:
        return sorted(set(cameras[images.identities == person].tolist()))

    people = [p for p in sorted(set(images.identities)) if len(tracklets(p)) > 1]
    for number, person in enumerate(people[:6], start=1):
        for camera, tracklet in enumerate(tracklets(person)[:2], start=1):
            shown = np.flatnonzero((images.identities == person) & (cameras == tracklet))
            for frame in range(3):
                part = "bounding_box_train" if number <= 4 else "bounding_box_test"
                part = "query" if number > 4 and frame == 0 else part
                path = folder / part / f"{number:04d}_c{camera}s1_{frame:06d}_00.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(images.image(int(shown[2 * frame]))).save(path)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
