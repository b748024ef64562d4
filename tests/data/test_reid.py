"""The embedded pedestrians, rankings, options and where the raw files are looked for."""

import tarfile
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest
from splits import reid_splits

from siamjax.data import reid as rankings
from siamjax.data.archives import Published, collect, locate, opened_file
from siamjax.data.images import ImageSet, of_arrays
from siamjax.data.reid import NAMES
from siamjax.errors import UsageError


def people(splits, indices):
    return set(splits.images.identities[indices].tolist())


def tracklets(splits, indices):
    return set(splits.cameras[indices].tolist())


def test_pedestrians_are_all_there():
    splits = reid_splits("pedestrians")
    assert splits.images.name == "pedestrians"
    assert len(splits.images) == 832
    assert len(set(splits.images.identities)) == 9
    assert len(set(splits.cameras.tolist())) == 37
    assert splits.images.image(5).shape == (160, 60, 3)
    first = splits.images.keys.index("0000_t00_000045.jpg")
    assert splits.images.identities[first] == "p0_bald_jeans"
    for tracklet in range(37):  # a tracklet is one walk of one person
        assert len(people(splits, splits.cameras == tracklet)) == 1


@pytest.mark.parametrize("seed", range(6))
def test_pedestrians_by_person(seed):
    splits = reid_splits("pedestrians", seed=seed)
    test, validation = splits.test, splits.validation
    assert len(people(splits, test.gallery)) == 4
    assert len(people(splits, test.query)) == 3  # the fourth has one tracklet
    assert not people(splits, test.gallery) & people(splits, splits.training)
    assert not people(splits, test.gallery) & people(splits, validation.gallery)
    assert people(splits, validation.gallery) <= people(splits, splits.training)
    assert not tracklets(splits, validation.gallery) & tracklets(splits, splits.training)
    assert len(people(splits, splits.training)) == 5
    assert "5 for training" in splits.protocol
    assert f"{len(test.query)} queries of 3 people" in splits.protocol
    every_index = np.concatenate([splits.training, validation.gallery, test.gallery])
    np.testing.assert_array_equal(np.sort(every_index), np.arange(832))  # none lost, none twice
    for ranking in (test, validation):
        assert ranking.rule == "market"
        for query in ranking.query:
            same = ranking.gallery[
                splits.images.identities[ranking.gallery] == splits.images.identities[query]
            ]
            assert (splits.cameras[same] != splits.cameras[query]).any()
        shown = splits.images.identities[ranking.gallery]
        np.testing.assert_array_equal(
            ranking.distractor, ~np.isin(shown, splits.images.identities[ranking.query])
        )
    assert test.distractor.any()


def test_pedestrians_with_people_for_validation():
    splits = reid_splits("pedestrians", test_people=3, validation_people=3)
    groups = [
        people(splits, part)
        for part in (splits.training, splits.validation.gallery, splits.test.gallery)
    ]
    assert [len(group) for group in groups] == [3, 3, 3]
    assert len(set.union(*groups)) == 9
    assert "3 others choose the checkpoint; no person is in two" in splits.protocol


@pytest.mark.parametrize("seed", range(4))
def test_pedestrians_by_tracklet(seed):
    splits = reid_splits("pedestrians", disjoint="tracklet", seed=seed)
    groups = [
        tracklets(splits, part)
        for part in (splits.training, splits.validation.gallery, splits.test.gallery)
    ]
    assert [len(group) for group in groups] == [17, 8, 12]
    assert len(set.union(*groups)) == 37
    assert len(people(splits, splits.training)) == 9
    assert len(people(splits, splits.test.query)) == 6
    assert not splits.test.distractor.any()
    assert "PEOPLE ARE" in splits.protocol


def test_seeds_matter_and_a_request_gives_the_same_again():
    drawn = [reid_splits("pedestrians", seed=seed) for seed in range(4)]
    assert len({splits.fingerprint() for splits in drawn}) == 4
    request = drawn[3].request
    assert request["home"] is None
    assert reid_splits(**request).fingerprint() == drawn[3].fingerprint()


def test_fingerprint_sees_every_part():
    splits = reid_splits("pedestrians")
    from dataclasses import replace

    swapped = replace(splits.test, distractor=~splits.test.distractor)
    shot = replace(splits.test, rule="single_shot")
    cameras = splits.cameras.copy()
    cameras[7] += 1
    changed = [
        replace(splits, training=splits.training[1:]),
        replace(splits, test=swapped),
        replace(splits, test=shot),
        replace(splits, test=splits.validation, validation=splits.test),
        replace(splits, cameras=cameras),
    ]
    prints = {splits.fingerprint(), *(other.fingerprint() for other in changed)}
    assert len(prints) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_people": 8}, "8 people for test and 0 for validation do not fit; of 9 people"),
        ({"test_people": 1}, "do not fit"),
        ({"validation_people": 1}, "do not fit"),
        ({"validation_people": -2}, "validation_people -2: must be at least 1"),
        ({"test_people": 2, "disjoint": "tracklet"}, "trains on everyone"),
        ({"split": 1}, "split 1 does not apply to pedestrians"),
        ({"protocol": "new"}, "protocol new does not apply to pedestrians"),
        ({"seed": -1}, "seed -1: must be at least 0"),
    ],
)
def test_options_of_pedestrians(options, message):
    with pytest.raises(UsageError, match=message):
        reid_splits("pedestrians", **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("market", {}, f"market: no such data set; give a folder .* or one of {', '.join(NAMES)}"),
        ("cuhk03/labeled", {"protocol": "new", "split": 2}, "split 2 does not apply"),
        ("cuhk03/labeled", {"test_people": 5}, "test_people 5 does not apply"),
        ("grid", {"disjoint": "tracklet"}, "disjoint tracklet does not apply to grid"),
        ("grid", {"split": 10}, "split 10 must be 0 to 9"),
        ("cuhk03/detected", {"split": 20}, "split 20 must be 0 to 19"),
    ],
)
def test_options_that_do_not_fit(data, options, message):
    with pytest.raises(UsageError, match=message):
        reid_splits(data, **options)


def test_home_applies_to_raw_files_alone(tmp_path):
    with pytest.raises(UsageError, match=r"home .* does not apply to pedestrians"):
        reid_splits("pedestrians", home=tmp_path)
    with pytest.raises(UsageError, match="nowhere: no such folder or file"):
        reid_splits("grid", home=tmp_path / "nowhere")


def tiny(identities, cameras):
    images = ImageSet(
        name="tiny",
        credit="",
        keys=tuple(map(str, range(len(identities)))),
        identities=np.array(identities),
        source=[b""] * len(identities),
    )
    return images, np.array(cameras)


def test_queries_without_a_match_are_left_out_and_said():
    images, cameras = tiny(list("aabbcx"), [1, 2, 1, 2, 1, 2])
    index = np.arange(6)
    ranking, remark = rankings.rank(
        images, cameras, name="r", query=index[:5], gallery=index, rule="market"
    )
    assert ranking.query.tolist() == [0, 1, 2, 3]  # c was seen by camera 1 alone
    assert ranking.distractor.tolist() == [False] * 4 + [True, True]
    assert remark == "; 1 queries of r left out, without a match"
    single, remark = rankings.rank_views(images, cameras, "abcx", name="r")
    assert (single.query.tolist(), single.gallery.tolist()) == ([0, 2], [1, 3, 5])
    assert single.distractor.tolist() == [False, False, True]
    with pytest.raises(UsageError, match="r of tiny: 1 of its people can be searched for"):
        rankings.rank_views(images, cameras, "ax", name="r")


def test_drawn_queries_are_one_a_person_and_camera():
    images, cameras = tiny(list("aaaaabbbc"), [1, 1, 1, 2, 2, 3, 3, 1, 1])
    chosen = np.arange(9)
    seen = set()
    for seed in range(20):
        ranking, remark = rankings.rank_by_camera(images, cameras, chosen, name="r", seed=seed)
        assert remark == ""
        pairs = [(images.identities[i], cameras[i]) for i in ranking.query]
        assert sorted(pairs) == [("a", 1), ("a", 2), ("b", 1), ("b", 3)]
        assert ranking.gallery.tolist() == chosen.tolist()
        seen.add(tuple(ranking.query.tolist()))
    assert len(seen) > 5


SET = Published(title="Some set", names=("some", "some.zip"), tree="DIR/some/1.txt", source="ask")


def test_where_raw_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMJAX_REID", str(tmp_path))
    with pytest.raises(UsageError, match=r"Some set is not in .*SIAMJAX_REID.*DIR/some.*: ask"):
        locate(SET, None)
    archive = tmp_path / "some.zip"
    archive.touch()
    assert locate(SET, None) == archive
    (tmp_path / "some").mkdir()
    assert locate(SET, None) == tmp_path / "some"  # a folder goes before an archive
    assert locate(SET, tmp_path) == tmp_path / "some"
    assert locate(SET, tmp_path / "some") == tmp_path / "some"
    assert locate(SET, archive) == archive
    (tmp_path / "some.rar").touch()
    with pytest.raises(UsageError, match=r"some.rar: not a folder, .zip.*DIR/some"):
        locate(SET, tmp_path / "some.rar")
    monkeypatch.delenv("SIAMJAX_REID")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with pytest.raises(UsageError, match=r"not in .*tfds/downloads/manual"):
        locate(SET, None)


def test_folder_and_archives_hold_the_same(tmp_path):
    folder = tmp_path / "some"
    (folder / "inner").mkdir(parents=True)
    for name in ("2.txt", "1.txt", "inner/3.txt", "._1.txt"):
        (folder / name).write_text(name)
    zipped, tarred = tmp_path / "some.zip", tmp_path / "some.tar.gz"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in folder.rglob("*.txt"):
            archive.write(path, path.relative_to(tmp_path))
    with tarfile.open(tarred, "w:gz") as archive:
        archive.add(folder, "some")

    def key(path: PurePosixPath):
        return path.stem if path.suffix == ".txt" else None

    found = collect(folder, key)
    assert found == {"1": folder / "1.txt", "2": folder / "2.txt", "3": folder / "inner/3.txt"}
    expected = {"1": b"1.txt", "2": b"2.txt", "3": b"inner/3.txt"}
    for archive in (zipped, tarred):
        assert collect(archive, key) == expected
        with opened_file(archive, "3.txt", SET) as path:
            assert path.read_text() == "inner/3.txt"
        assert not path.exists()
    with opened_file(folder, "3.txt", SET) as path:
        assert path == folder / "inner/3.txt"
    (tmp_path / "4.txt").touch()
    for source in (folder, zipped, tmp_path / "4.txt"):
        with opened_file(source, "4.txt", SET) as path:
            assert path == tmp_path / "4.txt"
    with (
        pytest.raises(UsageError, match=r"5.txt is neither in .*some.zip nor beside it; expected"),
        opened_file(zipped, "5.txt", SET),
    ):
        pass
    (folder / "inner/1.txt").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"1 is there twice, as 1.txt and inner/1.txt"):
        collect(folder, key)


@pytest.mark.parametrize("name", ["some.zip", "some.tgz"])
def test_broken_archive(tmp_path, name):
    source = tmp_path / name
    source.write_bytes(b"no archive")
    with pytest.raises(UsageError, match=f"{name}: broken archive"):
        collect(source, str)


def test_archive_cut_in_an_image(tmp_path):
    source = tmp_path / "some.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("1.txt", b"x" * 1000)
    content = bytearray(source.read_bytes())
    content[500] ^= 1
    source.write_bytes(content)
    with pytest.raises(UsageError, match=r"some.zip: broken archive .*CRC"):
        collect(source, str)


@pytest.mark.parametrize(
    "cameras", [[1.0, 2.0, 1.0, 2.0], [1, np.nan, 1, 2], ["1", "2", "1", "2"], [1, 2]], ids=str
)
def test_cameras_are_whole_numbers(cameras):
    images = of_arrays(np.zeros((4, 4, 4, 3), np.uint8), ["a", "a", "b", "b"])
    cameras, every = np.array(cameras), np.arange(4)
    for make in (
        lambda: rankings.rank(images, cameras, name="x", query=every, gallery=every, rule="market"),
        lambda: rankings.rank_by_camera(images, cameras, every, name="x", seed=0),
        lambda: rankings.rank_views(images, cameras, ["a", "b"], name="x"),
    ):
        with pytest.raises(UsageError, match=r"cameras of arrays: .* give 4 whole numbers"):
            make()


def test_people_who_are_not_known_are_not_ranked():
    images = of_arrays(np.zeros((4, 4, 4, 3), np.uint8), ["a", "a", "", ""])
    every = np.arange(4)
    with pytest.raises(UsageError, match="identities of arrays: 2 of 4"):
        rankings.rank(
            images, np.array([1, 2, 1, 2]), name="x", query=every, gallery=every, rule="market"
        )
