"""CUHK01 and GRID: readers on small trees in their real layouts."""

import shutil
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from reid_trees import arrays_of, prepare_in, save, save_v5
from splits import reid_splits

from siamjax.data.datasets import cuhk01, grid
from siamjax.data.prepared import prepared_people
from siamjax.errors import UsageError


@pytest.fixture(scope="module")
def crops():
    return arrays_of(reid_splits("pedestrians").images, 90)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder for this test, with the prepared copies in it."""
    prepare_in(tmp_path / "prepared", monkeypatch)
    monkeypatch.setenv("SIAMJAX_REID", str(tmp_path))
    return tmp_path


def people(splits, indices):
    return set(splits.images.identities[indices].tolist())


def keys(splits, indices):
    return {splits.images.keys[i] for i in indices}


# ---------------------------------------------------------------- CUHK01


@pytest.fixture
def small_cuhk01(own, crops, monkeypatch):
    for person in range(1, 21):
        for number in range(1, 5):
            name = f"{person:04d}{number:03d}.png"
            save(crops[4 * person + number - 5], own / "CUHK01" / "campus" / name)
    monkeypatch.setattr(cuhk01, "PEOPLE", 20)
    monkeypatch.setattr(cuhk01, "PUBLISHED_TESTS", (5, 10))
    return own / "CUHK01"


def test_cuhk01_images(small_cuhk01, crops):
    images, cameras = prepared_people(cuhk01.Cuhk01(), credit="")
    assert images.name == "cuhk01"
    assert images.keys[5] == "0002002.png"
    assert images.identities[5] == "0002"
    assert cameras[:8].tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    for index in range(80):
        np.testing.assert_array_equal(images.image(index), crops[index])


def test_cuhk01_division(small_cuhk01):
    drawn = [reid_splits("cuhk01", seed=seed, validation_people=4) for seed in range(4)]
    assert len({frozenset(people(splits, splits.test.query)) for splits in drawn}) == 4
    for splits in drawn:
        test, validation = splits.test, splits.validation
        groups = [people(splits, part) for part in (splits.training, validation.query, test.query)]
        assert [len(group) for group in groups] == [11, 4, 5]
        assert len(set.union(*groups)) == 20
        assert (len(test.query), len(test.gallery)) == (10, 10)
        assert test.rule == validation.rule == "single_shot"
        assert {key[6] for key in keys(splits, test.query)} == {"1", "2"}
        assert {key[6] for key in keys(splits, test.gallery)} == {"3", "4"}
    assert "15/5 people, divided at random (seed 3); 11 for training" in drawn[3].protocol
    half = reid_splits("cuhk01", test_people=10)
    assert len(people(half, half.test.query)) == 10
    assert len(people(half, half.validation.query)) == 2  # a tenth, at least two
    assert "NOT" not in half.protocol
    unusual = reid_splits("cuhk01", test_people=7)
    assert "13/7 people (NOT a published division: 15/5 or 10/10)" in unusual.protocol
    with pytest.raises(UsageError, match="19 of 20 people cannot be held out for test; ask for 2"):
        reid_splits("cuhk01", test_people=19)


def test_cuhk01_from_archives(small_cuhk01, own, monkeypatch):
    folder = reid_splits("cuhk01")
    with zipfile.ZipFile(own / "cuhk01.zip", "w") as archive:
        for path in small_cuhk01.rglob("*.png"):
            archive.write(path, path.relative_to(own))
            archive.writestr(f"__MACOSX/CUHK01/campus/._{path.name}", b"a Mac's note")
    with tarfile.open(own / "mine.tgz", "w:gz") as archive:
        archive.add(small_cuhk01 / "campus", "campus")
    for home in (own / "cuhk01.zip", own / "mine.tgz"):
        prepare_in(own / home.suffix, monkeypatch)
        again = reid_splits("cuhk01", home=home)
        assert again.images.checksum() == folder.images.checksum()
        assert again.fingerprint() == folder.fingerprint()


def test_cuhk01_incomplete(small_cuhk01, own, monkeypatch):
    (small_cuhk01 / "campus" / "0007003.png").unlink()
    with pytest.raises(UsageError, match=r"CUHK01: 79 images .* 80 .*: 0007003.png is missing"):
        reid_splits("cuhk01")
    shutil.copy(small_cuhk01 / "campus/0007002.png", small_cuhk01 / "campus/0007003.png")
    shutil.copy(small_cuhk01 / "campus/0007002.png", small_cuhk01 / "campus/0099001.png")
    with pytest.raises(UsageError, match=r"81 images .*: 0099001.png is not one of them"):
        reid_splits("cuhk01")
    monkeypatch.setattr(cuhk01, "PEOPLE", 971)
    with pytest.raises(UsageError, match=r"81 images .* has 3,884 \(971 people x 4\)"):
        reid_splits("cuhk01")
    shutil.rmtree(small_cuhk01)
    with pytest.raises(UsageError, match=r"CUHK01 is not in .*DIR/CUHK01/campus/0001001.png.*ask"):
        reid_splits("cuhk01")


# ---------------------------------------------------------------- GRID


PARTITIONS = [sorted({(place + 3 * k) % 10 + 1 for k in range(5)}) for place in range(10)]


def partition_struct(numbers):
    """One cell as it was published: a structure whose third field are the people."""
    return {
        "idx_all": np.arange(1, 11, dtype=float)[None],
        "idx_test": np.array(sorted(set(range(1, 11)) - set(numbers)), float)[None],
        "idx_train": np.array(numbers, float)[None],
    }


def save_partitions(path, cells):
    column = np.empty((1, len(cells)), object)
    for place, cell in enumerate(cells):
        column[0, place] = cell
    save_v5(path, trainIdxAll=column, features=np.zeros((4, 3)))


@pytest.fixture
def small_grid(own, crops, monkeypatch):
    """Ten people by cameras 1 to 8, and six strangers."""
    home = own / "underground_reid"
    for person in range(1, 11):
        camera = person % 8 + 1
        save(crops[person], home / "probe" / f"{person:04d}_{camera}_25004_107_32_106_221.jpeg")
        save(crops[person + 20], home / "gallery" / f"{person:04d}_{9 - camera}_25023_1_2_3_4.jpeg")
    for number in range(6):
        save(crops[40 + number], home / "gallery" / f"0000_{number + 1}_26{number}_1_2_3_4.jpeg")
    (home / "README.txt").write_text("x")
    save_partitions(
        home / "features_and_partitions.mat", [partition_struct(part) for part in PARTITIONS]
    )
    monkeypatch.setattr(grid, "PEOPLE", 10)
    monkeypatch.setattr(grid, "STRANGERS", 6)
    monkeypatch.setattr(grid, "TRAINED", 5)
    return home


def test_grid_images(small_grid):
    images, cameras = prepared_people(grid.Grid(), credit="")
    assert len(images) == 26
    for index, key in enumerate(images.keys):
        np.testing.assert_array_equal(images.image(index), np.asarray(Image.open(small_grid / key)))
        name = key.split("/")[1]
        assert images.identities[index] == name[:4]
        assert cameras[index] == int(name[5])


@pytest.mark.parametrize("split", [0, 4, 9])
def test_grid_division(small_grid, split):
    splits = reid_splits("grid", split=split)
    test, validation = splits.test, splits.validation
    assert test.rule == validation.rule == "single_shot"
    training = {f"{number:04d}" for number in PARTITIONS[split]}
    tested = {f"{number:04d}" for number in range(1, 11)} - training
    assert people(splits, test.query) == tested
    assert people(splits, test.gallery) == tested | {"0000"}
    assert len(test.gallery) == 5 + 6
    assert test.distractor.sum() == 6
    assert people(splits, test.gallery[test.distractor]) == {"0000"}
    assert all(key.startswith("probe/") for key in keys(splits, test.query))
    assert all(key.startswith("gallery/") for key in keys(splits, test.gallery))
    assert people(splits, splits.training) | people(splits, validation.query) == training
    assert len(people(splits, validation.query)) == 2
    assert not people(splits, splits.training) & people(splits, validation.gallery)
    assert not validation.distractor.any()
    assert f"official split {split} of 0 to 9: 5/5 people" in splits.protocol
    assert "gallery 11 with 6 strangers" in splits.protocol


def test_grid_partitions_as_plain_numbers(small_grid, own, monkeypatch):
    before = reid_splits("grid", split=2)
    plain = [np.array(part, float)[:, None] for part in PARTITIONS]
    save_partitions(small_grid / "features_and_partitions.mat", plain)
    prepare_in(own / "again", monkeypatch)
    assert reid_splits("grid", split=2).fingerprint() == before.fingerprint()


def test_grid_incomplete(small_grid, monkeypatch):
    probe = next((small_grid / "probe").glob("0004*"))
    probe.rename(probe.with_suffix(".txt"))
    with pytest.raises(UsageError, match=r"0 images of person 0004 in probe/ instead of one, of"):
        reid_splits("grid")
    probe.with_suffix(".txt").rename(probe)
    wrong = small_grid / "gallery" / "holiday.jpeg"
    shutil.copy(probe, wrong)
    with pytest.raises(UsageError, match=r"gallery/holiday.jpeg: not named like 0001_1"):
        reid_splits("grid")
    wrong.unlink()
    monkeypatch.setattr(grid, "STRANGERS", 775)
    with pytest.raises(UsageError, match=r"6 strangers \(0000\).* 26 images .* 775 and 795"):
        reid_splits("grid")
    monkeypatch.setattr(grid, "PEOPLE", 250)
    monkeypatch.setattr(grid, "TRAINED", 125)
    with pytest.raises(UsageError, match=r"trainIdxAll\{1\}: 5 numbers .* expected 125"):
        reid_splits("grid")
    (small_grid / "features_and_partitions.mat").unlink()
    with pytest.raises(
        UsageError, match=r"features_and_partitions.mat is neither in .* nor beside it"
    ):
        reid_splits("grid")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (PARTITIONS[:9], "trainIdxAll has 9 splits instead of 10"),
        ([*PARTITIONS[:9], [1, 2, 3, 4]], r"trainIdxAll\{10\}: 4 numbers"),
        ([*PARTITIONS[:9], [1, 2, 3, 4, 4]], r"trainIdxAll\{10\}: 4 numbers"),
        ([*PARTITIONS[:9], [0, 2, 3, 4, 5]], r"different ones from 1 to 10"),
        ([*PARTITIONS[:9], [7, 8, 9, 10, 11]], r"different ones from 1 to 10"),
        (["words"] * 10, r"trainIdxAll\{1\}: expected numbers, found text"),
    ],
)
def test_grid_wrong_partitions(small_grid, cells, message):
    path = small_grid / "features_and_partitions.mat"
    save_partitions(path, [c if isinstance(c, str) else np.array(c, float) for c in cells])
    with pytest.raises(UsageError, match=message):
        reid_splits("grid")


def test_grid_partitions_of_another_form(small_grid):
    path = small_grid / "features_and_partitions.mat"
    save_v5(path, splits=np.zeros(3))
    with pytest.raises(UsageError, match="no variable trainIdxAll in it"):
        reid_splits("grid")
    with h5py.File(path, "w") as file:
        file["trainIdxAll"] = np.zeros(3)
    with pytest.raises(UsageError, match=r"MATLAB 7.3 \(HDF5\), but .* version 5"):
        reid_splits("grid")
