"""CUHK03's readers on a small cuhk-03.mat and protocol file in their real formats."""

import zipfile

import h5py
import numpy as np
import pytest
import scipy.io
from reid_trees import (
    arrays_of,
    cuhk03_config,
    cuhk03_files,
    prepare_in,
    save_cuhk03,
    save_v5,
)
from splits import reid_splits

from siamjax.data.datasets import cuhk03
from siamjax.data.datasets import cuhk03 as protocols
from siamjax.data.prepared import prepared_people
from siamjax.errors import UsageError

PEOPLE = (6, 4, 3, 2, 2)
CONFIG = "cuhk03_new_protocol_config_{}.mat"


@pytest.fixture(scope="module")
def crops():
    return arrays_of(reid_splits("pedestrians").images, 60)


@pytest.fixture(scope="module")
def boxes(crops):
    """Two or three images by each camera, other ones for other people; cells left empty."""
    made = {}
    place = 0
    for name, shrink in (("labeled", 1), ("detected", 2)):
        pairs = []
        for count in PEOPLE:
            people = []
            for person in range(count):
                cells = [None] * 10
                taken = [0, 1, 5, 8] if person % 2 else [0, 2, 3, 6, 7]
                for number in taken[: len(taken) - shrink + 1]:
                    cells[number] = crops[place % 60][place % 7 :: shrink, place % 5 :]
                    place += 1
                people.append(cells)
            pairs.append(people)
        made[name] = pairs
    return made


@pytest.fixture(scope="module")
def test_sets():
    """Of pair 1 to 3, every set another three."""
    people = [(pair, person) for pair in (1, 2, 3) for person in range(1, PEOPLE[pair - 1] + 1)]
    rng = np.random.default_rng(1)
    return [[people[i] for i in rng.choice(13, 3, replace=False)] for _ in range(20)]


@pytest.fixture(scope="module")
def original(boxes, test_sets, tmp_path_factory):
    """The published folder, with both protocol files beside the large file."""
    home = tmp_path_factory.mktemp("reid") / "cuhk03"
    (home / "cuhk03_release").mkdir(parents=True)
    save_cuhk03(home / "cuhk03_release" / "cuhk-03.mat", boxes, test_sets)
    for name, pairs in boxes.items():
        save_v5(home / CONFIG.format(name), **cuhk03_config(pairs))
    return home


@pytest.fixture
def home(original, boxes, tmp_path, monkeypatch):
    prepare_in(tmp_path / "prepared", monkeypatch)
    monkeypatch.delenv("SIAMJAX_REID", raising=False)
    counts = {}
    for name, pairs in boxes.items():
        made = cuhk03_config(pairs)
        counts[name] = tuple(len(made[f"{part}_idx"]) for part in ("train", "query", "gallery"))
    monkeypatch.setattr(cuhk03, "PEOPLE", PEOPLE)
    monkeypatch.setattr(cuhk03, "IMAGES", {n: len(cuhk03_files(p)) for n, p in boxes.items()})
    monkeypatch.setattr(cuhk03, "TESTED", 3)
    monkeypatch.setattr(protocols, "VALIDATION_PEOPLE", 2)
    monkeypatch.setattr(protocols, "COUNTS", counts)
    return original


def people(splits, indices):
    return set(splits.images.identities[indices].tolist())


@pytest.mark.parametrize("kind", ["labeled", "detected"])
def test_images_names_and_cameras(home, boxes, kind):
    images, cameras = prepared_people(cuhk03.Cuhk03(boxes=kind, home=home), credit="")
    expected = cuhk03_files(boxes[kind])
    assert images.name == f"cuhk03/{kind}"
    assert images.keys == tuple(sorted(expected))
    for index, key in enumerate(images.keys):
        np.testing.assert_array_equal(images.image(index), expected[key])
        assert images.identities[index] == key[:5]
        assert cameras[index] == int(key[6])


@pytest.mark.parametrize("split", [0, 7, 19])
def test_classic(home, test_sets, split):
    splits = reid_splits("cuhk03/labeled", home=home, split=split)
    test, validation = splits.test, splits.validation
    tested = {f"{pair}_{person:03d}" for pair, person in test_sets[split]}
    assert people(splits, test.query) == people(splits, test.gallery) == tested
    assert len(people(splits, validation.query)) == 2
    trained = people(splits, splits.training)
    assert len(trained) == 13 - 3 - 2
    assert not trained & (tested | people(splits, validation.gallery))
    assert not tested & people(splits, validation.gallery)
    assert not any(person[0] in "45" for person in trained)  # not of the paper's people
    for ranking in (test, validation):
        assert ranking.rule == "single_shot"
        assert set(splits.cameras[ranking.query]) == {1}
        assert set(splits.cameras[ranking.gallery]) == {2}
        assert not ranking.distractor.any()
    assert splits.protocol.startswith(
        f"cuhk03/labeled, CLASSIC protocol, labeled boxes, official split {split} of 0 to 19: "
        "8/2/3 people"
    )


def test_seed_draws_validation_and_leaves_the_test(home):
    drawn = [reid_splits("cuhk03/detected", home=home, seed=seed) for seed in range(5)]
    assert len({frozenset(people(splits, splits.validation.query)) for splits in drawn}) > 2
    for splits in drawn:
        np.testing.assert_array_equal(splits.test.query, drawn[0].test.query)
    more = reid_splits("cuhk03/detected", home=home, validation_people=4)
    assert len(people(more, more.validation.query)) == 4
    with pytest.raises(
        UsageError, match="9 of 10 people cannot be held out for validation; ask for"
    ):
        reid_splits("cuhk03/detected", home=home, validation_people=9)


def test_new(home, boxes):
    splits = reid_splits("cuhk03/labeled", home=home, protocol="new", validation_people=3)
    made = cuhk03_config(boxes["labeled"])

    def names(variable):
        return {made["filelist"][number - 1] for number in made[variable].ravel()}

    def keys(indices):
        return {splits.images.keys[i] for i in indices}

    assert keys(splits.test.query) == names("query_idx")
    assert keys(splits.test.gallery) == names("gallery_idx")
    assert splits.test.rule == splits.validation.rule == "market"
    validated = people(splits, splits.validation.gallery)
    assert len(validated) == 3
    assert keys(splits.training) | keys(splits.validation.gallery) == names("train_idx")
    assert not people(splits, splits.training) & validated
    assert len(splits.validation.query) == 6  # one of each person and view
    assert "NEW protocol (9/8 people), labeled boxes, Market rule: 6 people" in splits.protocol
    assert "left out" not in splits.protocol
    classic = reid_splits("cuhk03/labeled", home=home)
    assert classic.fingerprint() != splits.fingerprint()
    assert reid_splits(**{**splits.request, "home": home}).fingerprint() == splits.fingerprint()


def test_new_queries_whose_match_is_a_query_too(home, boxes):
    """Detected boxes here: one image by camera 2 of every other person, and it asks."""
    splits = reid_splits("cuhk03/detected", home=home, protocol="new")
    made = cuhk03_config(boxes["detected"])
    gallery = {made["filelist"][number - 1][:7] for number in made["gallery_idx"].ravel()}
    asked = [made["filelist"][number - 1] for number in made["query_idx"].ravel()]
    other = {"1": "2", "2": "1"}
    kept = {file for file in asked if file[:6] + other[file[6]] in gallery}
    assert {splits.images.keys[i] for i in splits.test.query} == kept
    assert 0 < len(kept) < len(asked)
    assert f"; {len(asked) - len(kept)} queries of test people left out" in splits.protocol


def test_archive_and_file_hold_the_same(home, tmp_path, monkeypatch):
    folder = reid_splits("cuhk03/labeled", home=home, protocol="new")
    archive = tmp_path / "cuhk03_release.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(home / "cuhk03_release" / "cuhk-03.mat", "cuhk03_release/cuhk-03.mat")
        name = CONFIG.format("labeled")
        zipped.write(home / name, f"cuhk03_release/{name}")
    (tmp_path / CONFIG.format("labeled")).write_bytes((home / name).read_bytes())
    (tmp_path / "cuhk-03.mat").write_bytes((home / "cuhk03_release" / "cuhk-03.mat").read_bytes())
    for place, source in enumerate([archive, tmp_path / "cuhk-03.mat"]):
        prepare_in(tmp_path / str(place), monkeypatch)
        again = reid_splits("cuhk03/labeled", home=source, protocol="new")
        assert again.fingerprint() == folder.fingerprint()
        assert again.images.checksum() == folder.images.checksum()


def test_prepared_once_the_large_file_is_not_needed_for_classic(home, tmp_path):
    first = reid_splits("cuhk03/labeled", home=home, split=3)
    assert reid_splits("cuhk03/labeled", split=3).fingerprint() == first.fingerprint()


def test_incomplete_by_the_published_counts(home, monkeypatch):
    monkeypatch.setattr(cuhk03, "IMAGES", {"labeled": 14_096})
    with pytest.raises(UsageError, match=r"cuhk-03.mat: \d+ images in 'labeled', but .* 14,096"):
        reid_splits("cuhk03/labeled", home=home)
    monkeypatch.setattr(cuhk03, "PEOPLE", (843, 440, 77, 58, 49))
    with pytest.raises(UsageError, match=r"\(6, 4, 3, 2, 2\) people in its pairs of cameras"):
        reid_splits("cuhk03/labeled", home=home)
    monkeypatch.setattr(cuhk03, "TESTED", 100)
    with pytest.raises(UsageError, match=r"test set 0 .* is \(3, 2\), expected 100"):
        reid_splits("cuhk03/labeled", home=home)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda sets, boxes: sets.pop(), "19 test sets instead of 20"),
        (lambda sets, boxes: sets[4].__setitem__(1, (1, 7)), "4 .* names person 7 of pair 1"),
        (lambda sets, boxes: sets[4].__setitem__(1, (6, 1)), "4 .* names person 1 of pair 6"),
        (lambda sets, boxes: sets[4].__setitem__(1, sets[4][0]), "expected 3 different rows"),
        (lambda sets, boxes: sets[4].__setitem__(1, (1, np.nan)), "names person nan of pair 1"),
        (lambda sets, boxes: sets[4].__setitem__(1, (np.inf, 1)), "names person 1 of pair inf"),
        (lambda sets, boxes: sets[4].__setitem__(1, (1.5, 1)), "names person 1 of pair 1.5"),
        (lambda sets, boxes: boxes.pop("labeled"), "no variable labeled in it, only detected"),
        (
            lambda sets, boxes: boxes["labeled"][1][2].__setitem__(0, np.ones((9, 5), np.uint8)),
            r"cell of 2_003_1_01.png is uint8 \(9, 5\), not an RGB image",
        ),
    ],
)
def test_wrong_large_file(home, boxes, test_sets, tmp_path, break_it, message):
    sets = [list(rows) for rows in test_sets]
    changed = {
        name: [[list(cells) for cells in people] for people in pairs]
        for name, pairs in boxes.items()
    }
    break_it(sets, changed)
    save_cuhk03(tmp_path / "cuhk-03.mat", changed, sets)
    with pytest.raises(UsageError, match=message):
        reid_splits("cuhk03/labeled", home=tmp_path / "cuhk-03.mat")


def test_test_person_without_an_image(home, boxes, test_sets, tmp_path, monkeypatch):
    pair, person = test_sets[0][0]
    pairs = [[list(cells) for cells in people] for people in boxes["labeled"]]
    gone = sum(cell is not None for cell in pairs[pair - 1][person - 1])
    pairs[pair - 1][person - 1] = [None] * 10
    save_cuhk03(tmp_path / "cuhk-03.mat", {"labeled": pairs}, test_sets)
    left = cuhk03.IMAGES["labeled"] - gone
    monkeypatch.setattr(cuhk03, "IMAGES", {"labeled": left})
    with pytest.raises(UsageError, match=f"person {pair}_{person:03d} of test set 0 has no"):
        reid_splits("cuhk03/labeled", home=tmp_path / "cuhk-03.mat")


def test_matlab_versions(home, tmp_path):
    older = tmp_path / "cuhk-03.mat"
    scipy.io.savemat(older, {"labeled": np.zeros(3)})
    with pytest.raises(UsageError, match=r"cuhk-03.mat: MATLAB version 5, but .* version 7.3"):
        reid_splits("cuhk03/labeled", home=older)
    older.write_bytes(b"something else")
    with pytest.raises(UsageError, match=r"cuhk-03.mat: not an HDF5 file"):
        reid_splits("cuhk03/labeled", home=older)
    whole = (home / "cuhk03_release" / "cuhk-03.mat").read_bytes()
    older.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cuhk-03.mat: damaged, or .*OSError: .*truncated"):
        reid_splits("cuhk03/labeled", home=older)
    with h5py.File(older, "w") as file:  # numbers where cells are expected
        file["labeled"], file["testsets"] = np.zeros((1, 5)), np.zeros((1, 20))
    with pytest.raises(UsageError, match=r"mat: /testsets: expected references to cells"):
        reid_splits("cuhk03/labeled", home=older)


def test_missing_files_say_what_is_expected(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMJAX_REID", str(tmp_path))
    with pytest.raises(UsageError, match=r"CUHK03 is not in .*DIR/cuhk03_release/cuhk-03.mat.*ask"):
        reid_splits("cuhk03/labeled")
    (tmp_path / "cuhk-03.mat").write_bytes((home / "cuhk03_release" / "cuhk-03.mat").read_bytes())
    reid_splits("cuhk03/labeled")
    with pytest.raises(UsageError, match=r"cuhk03_new_protocol_config_labeled.mat is neither in"):
        reid_splits("cuhk03/labeled", protocol="new")


def rename(made):
    made["filelist"][4] = "9_999_1_01.png"


def mislabel(made):
    made["labels"][0] += 1


def other_camera(made):
    made["camId"][3] = 3 - made["camId"][3]


def too_few(made):
    made["gallery_idx"] = made["gallery_idx"][1:]


def from_zero(made):
    made["train_idx"] = made["train_idx"] - made["train_idx"].min()


def without(made):
    del made["query_idx"]


def in_both(made):
    made["query_idx"][0] = made["train_idx"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"filelist row 5 names 9_999_1_01.png, which is not in cuhk03/labeled"),
        (mislabel, "labels and filelist disagree on identities"),
        (other_camera, "camId and filelist disagree on the view"),
        (too_few, r"\d+ in gallery_idx, but the new protocol has \d+ for labeled boxes"),
        (from_zero, "train_idx has numbers 0 to "),
        (without, "no variable query_idx in it"),
        (in_both, "is in two of training, validation and test"),
    ],
)
def test_wrong_protocol_file(home, boxes, tmp_path, monkeypatch, change, message):
    made = cuhk03_config(boxes["labeled"])
    change(made)
    (tmp_path / "cuhk-03.mat").symlink_to(home / "cuhk03_release" / "cuhk-03.mat")
    save_v5(tmp_path / CONFIG.format("labeled"), **made)
    with pytest.raises(UsageError, match=message):
        reid_splits("cuhk03/labeled", home=tmp_path / "cuhk-03.mat", protocol="new")


def test_protocol_file_of_the_wrong_version(home, tmp_path):
    (tmp_path / "cuhk-03.mat").symlink_to(home / "cuhk03_release" / "cuhk-03.mat")
    path = tmp_path / CONFIG.format("labeled")
    with h5py.File(path, "w") as file:
        file["train_idx"] = np.arange(3)
    with pytest.raises(UsageError, match=r"labeled.mat: MATLAB 7.3 \(HDF5\), but .* version 5"):
        reid_splits("cuhk03/labeled", home=tmp_path, protocol="new")
    path.write_bytes(b"hello" * 50)
    with pytest.raises(UsageError, match=r"labeled.mat: not a readable MATLAB file"):
        reid_splits("cuhk03/labeled", home=tmp_path, protocol="new")
