"""Small trees in the real formats of the re-identification sets, made of the pedestrians."""

import h5py
import numpy as np
import scipy.io
from PIL import Image

from siamjax.data.prepared import ImageBuilder


def arrays_of(images, count):
    """``count`` different RGB arrays, spread over the embedded set."""
    return [images.image(int(i)) for i in np.linspace(0, len(images) - 1, count)]


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def prepare_in(folder, monkeypatch):
    """Prepared copies go into ``folder``, so that no tree outlives its test."""
    original = ImageBuilder.__init__

    def init(self, *, home=None, config=None, data_dir=None):
        original(self, home=home, config=config, data_dir=folder)

    monkeypatch.setattr(ImageBuilder, "__init__", init)


def save_cuhk03(path, boxes, testsets):
    """cuhk-03.mat as MATLAB 7.3 writes it: references, axes reversed, marked empty cells.

    ``boxes``: {"labeled": pairs}; a pair is a list of people, a person ten arrays or None.
    """
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")

        def store(value, kind):
            data = refs.create_dataset(f"r{len(refs)}", data=value)
            data.attrs["MATLAB_class"] = np.bytes_(kind)
            return data

        def image(array):
            if array is None:
                empty = store(np.zeros(2, np.uint64), "double")
                empty.attrs["MATLAB_empty"] = np.uint8(1)
                return empty.ref
            return store(array.T, "uint8").ref

        def cells(references, shape):  # ``shape`` as in MATLAB
            array = np.empty(shape[::-1], h5py.ref_dtype)
            for index, reference in np.ndenumerate(references):
                array[index[::-1]] = reference
            return array

        def objects(rows):
            array = np.empty((len(rows), len(rows[0])), object)
            for index in np.ndindex(array.shape):
                array[index] = rows[index[0]][index[1]]
            return array

        for name, pairs in boxes.items():
            stored = []
            for people in pairs:
                references = objects([[image(cell) for cell in person] for person in people])
                stored.append([store(cells(references, references.shape), "cell").ref])
            data = file.create_dataset(name, data=cells(objects(stored), (len(stored), 1)))
            data.attrs["MATLAB_class"] = np.bytes_("cell")
        sets = [[store(np.asarray(rows, np.float64).T, "double").ref] for rows in testsets]
        file.create_dataset("testsets", data=cells(objects(sets), (len(sets), 1)))
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116))


def cuhk03_files(pairs):
    """What the images of one kind of boxes are called."""
    return {
        f"{pair}_{person:03d}_{1 + (number > 5)}_{number:02d}.png": image
        for pair, people in enumerate(pairs, 1)
        for person, cells in enumerate(people, 1)
        for number, image in enumerate(cells, 1)
        if image is not None
    }


def cuhk03_config(pairs):
    """The new protocol's variables: the first nine people are trained on, and of each other one
    image of each view asks.
    """
    # The published lists are not in the order of the images either.
    files = sorted(cuhk03_files(pairs), key=lambda file: file[::-1])
    identities = sorted({file[:5] for file in files})
    labels = np.array([identities.index(file[:5]) + 1 for file in files])
    camera = np.array([int(file[6]) for file in files])
    numbers = np.arange(1, len(files) + 1)
    tested = labels > 9
    asks = np.zeros_like(tested)
    for label in range(10, len(identities) + 1):
        for view in (1, 2):
            asks[np.flatnonzero((labels == label) & (camera == view))[0]] = True
    return {
        "train_idx": numbers[~tested][:, None],
        "query_idx": numbers[asks][:, None],
        "gallery_idx": numbers[tested & ~asks][:, None],
        "labels": labels[:, None],
        "camId": camera[:, None],
        "filelist": files,
    }


def save_v5(path, **variables):
    """A file of version 5; a list of strings becomes a column of cells, as MATLAB's cellstr."""
    written = {}
    for name, value in variables.items():
        if isinstance(value, list) and isinstance(value[0], str):
            column = np.empty((len(value), 1), object)
            column[:, 0] = value
            value = column
        written[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, written)
