"""Market-1501 and folders in its naming: readers on a small tree in its real layout."""

import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from reid_trees import arrays_of, prepare_in, save
from splits import reid_splits

from siamjax.data.datasets import market1501
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


@pytest.fixture
def small_market(own, crops):
    """Five people trained on, three tested, by cameras 1 and 2; distractors and junk."""
    home = own / "Market-1501-v15.09.15"
    place = iter(range(90))
    for person in (2, 7, 10, 11, 12):
        for camera in (1, 2):
            for frame in range(2):
                name = f"{person:04d}_c{camera}s1_00{frame}451_03.jpg"
                save(crops[next(place)], home / "bounding_box_train" / name)
    for person in (1, 3, 4):
        for camera in (1, 2):
            for frame, folder in enumerate(("query", "bounding_box_test", "bounding_box_test")):
                name = f"{person:04d}_c{camera}s2_00{frame}776_00.jpg"
                save(crops[next(place)], home / folder / name)
    for name in ("0000_c1s1_000151_01", "0000_c3s1_000151_02", "-1_c1s1_000401_03"):
        save(crops[next(place)], home / "bounding_box_test" / f"{name}.jpg")
    save(crops[next(place)], home / "gt_bbox" / "0001_c1s1_001051_00.jpg")
    (home / "bounding_box_test" / "Thumbs.db").write_bytes(b"x")
    return home


@pytest.fixture
def counted(monkeypatch):
    counts = {"bounding_box_train": 20, "query": 6, "bounding_box_test": 15}
    monkeypatch.setattr(market1501, "COUNTS", counts)


def check_market(splits, home):
    for index, key in enumerate(splits.images.keys):
        np.testing.assert_array_equal(
            splits.images.image(index), np.asarray(Image.open(home / key))
        )
        identity, camera = re.fullmatch(r"(-?\d+)_c(\d).*", key.split("/")[1]).groups()
        assert splits.images.identities[index] == identity
        assert splits.cameras[index] == int(camera)
    assert len(splits.images) == 41
    test, validation = splits.test, splits.validation
    assert keys(splits, test.query) == {f"query/{p.name}" for p in (home / "query").iterdir()}
    assert len(test.gallery) == 14  # all but the junk
    assert people(splits, test.gallery) == {"0000", "0001", "0003", "0004"}
    assert people(splits, test.gallery[test.distractor]) == {"0000"}
    assert test.distractor.sum() == 2
    assert test.rule == validation.rule == "market"
    validated = people(splits, validation.gallery)
    assert len(validated) == 2
    assert len(validation.query) == 4
    assert people(splits, splits.training) == {"0002", "0007", "0010", "0011", "0012"} - validated
    assert "6 queries, gallery 14 with 2 distractors, 1 junk boxes left out" in splits.protocol


def test_market_by_name(small_market, counted, own, monkeypatch):
    splits = reid_splits("market1501")
    check_market(splits, small_market)
    assert splits.images.name == "market1501"
    assert "(official counts)" in splits.protocol
    others = [reid_splits("market1501", seed=seed) for seed in range(1, 6)]
    assert len({frozenset(people(s, s.validation.query)) for s in others}) > 1
    with tarfile.open(own / "market.tar", "w") as archive:
        archive.add(small_market, "Market-1501-v15.09.15")
    prepare_in(own / "again", monkeypatch)
    again = reid_splits("market1501", home=own / "market.tar")
    assert again.fingerprint() == splits.fingerprint()
    assert again.images.checksum() == splits.images.checksum()


def test_market_by_folder(small_market, monkeypatch):
    splits = reid_splits(str(small_market))
    check_market(splits, small_market)
    assert "NOT Market-1501: 20 images in bounding_box_train instead of 12,936" in splits.protocol
    (small_market / "bounding_box_train" / "0013_c1_f0046182.jpg").write_bytes(
        (small_market / "query" / "0001_c1s2_000776_00.jpg").read_bytes()
    )  # as DukeMTMC names them, without a sequence
    more = reid_splits(str(small_market))  # nothing was prepared that could be stale
    assert "0013" in set(more.images.identities)
    assert more.fingerprint() != splits.fingerprint()
    counts = {"bounding_box_train": 21, "query": 6, "bounding_box_test": 15}
    monkeypatch.setattr(market1501, "COUNTS", counts)
    assert "(Market-1501's counts)" in reid_splits(str(small_market)).protocol
    with pytest.raises(UsageError, match=r"home .* does not apply"):
        reid_splits(str(small_market), home=small_market)


def test_market_by_name_needs_the_official_counts(small_market):
    with pytest.raises(
        UsageError,
        match=r"20 images in bounding_box_train instead of 12,936, 6 images in query instead "
        r"of 3,368, 15 images in bounding_box_test instead of 19,732; the folder or archive is",
    ):
        reid_splits("market1501")
    shutil.rmtree(small_market)
    with pytest.raises(UsageError, match=r"Market-1501 is not in .*expected DIR/Market-1501"):
        reid_splits("market1501")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("query/me.jpg", r"query/me.jpg: not named like 0002_c1s1_000451_03.jpg"),
        (
            "query/-1_c1s1_000401_00.jpg",
            r"junk \(-1\) and distractors \(0\) cannot be searched for",
        ),
        ("bounding_box_train/0000_c1s1_000401_00.jpg", "cannot be trained on; move it to"),
        ("bounding_box_train/0001_c1s1_000401_00.jpg", "0001 is in two of training"),
        ("query/00٣_c1s1_000401_00.jpg", "not named like"),
        ("query/0002_c99999999999999999999_1_1.jpg", "not named like"),
        ("query/99999999999999999999_c1s1_1_1.jpg", "not named like"),
        ("query/0009_c1s2_000776_00.jpg", None),
    ],
)
def test_market_folder_with_a_wrong_file(small_market, file, message):
    path = small_market / file
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(small_market / "query" / "0001_c1s2_000776_00.jpg", path)
    if message is None:
        assert "; 1 queries of test people left out" in reid_splits(str(small_market)).protocol
        return
    with pytest.raises(UsageError, match=message):
        reid_splits(str(small_market))


def test_market_folder_without_a_part(small_market):
    shutil.rmtree(small_market / "query")
    with pytest.raises(UsageError, match=r"no image in query/; expected FOLDER/query/0002_c1"):
        reid_splits(str(small_market))


def test_an_image_that_is_there_twice_is_refused_in_a_published_set(small_market, counted):
    (small_market / "copy/query").mkdir(parents=True)
    name = "query/0001_c1s2_000776_00.jpg"
    shutil.copy(small_market / name, small_market / "copy" / name)
    with pytest.raises(UsageError, match="is there twice, as copy/query"):
        reid_splits("market1501")


def test_market_folder_tells_what_it_leaves_out(small_market, capsys):
    (small_market / "copy").mkdir()
    (small_market / "query/empty.jpg").touch()
    reid_splits(str(small_market))
    assert capsys.readouterr().err == (
        f"{small_market}: 41 images of 8 people; 3 left out: in none of the three folders "
        "(2: copy, gt_bbox), empty file (query/empty.jpg)\n"
    )
    with pytest.raises(UsageError, match="3 left out"):
        reid_splits(str(small_market), strict=True)


def test_links_to_the_three_folders_are_the_folders(small_market, own):
    (own / "linked").mkdir()
    for part in small_market.iterdir():
        (own / "linked" / part.name).symlink_to(part)
    linked, direct = reid_splits(str(own / "linked")), reid_splits(str(small_market))
    assert linked.fingerprint() == direct.fingerprint()


def test_images_of_one_camera_cannot_be_ranked(small_market):
    for path in small_market.rglob("*_c2s*"):
        path.unlink()
    for path in small_market.rglob("*_c3s*"):
        path.unlink()
    with pytest.raises(UsageError, match=r"all images are of one camera \(1\)") as error:
        reid_splits(str(small_market))
    assert "hold out more" not in str(error.value)
