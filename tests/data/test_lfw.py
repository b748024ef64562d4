"""LFW's readers on a small tree in its real layout, made of the embedded faces."""

import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from splits import verification_splits

from siamjax.data import VerificationOptions, load_verification, of_arrays
from siamjax.data import verification as face_data
from siamjax.data.datasets import lfw
from siamjax.data.prepared import prepared_images
from siamjax.errors import UsageError

NAMES = [f"Person_{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWX"]  # 24 people x 3 images


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def home(faces, tmp_path_factory):
    """pairs.txt: 10 folds x 1 + 1 of people A..T; View 1: U..X and (as in LFW) A, B again."""
    home = tmp_path_factory.mktemp("lfw_home")
    for place, name in enumerate(NAMES):
        folder = home / "lfw_funneled" / name
        folder.mkdir(parents=True)
        for number in (1, 2, 3):
            content = jpeg(faces.image(place * 10 + number))
            (folder / f"{name}_{number:04d}.jpg").write_bytes(content)
    rows = ["10\t1"]
    for fold in range(10):
        one, other = NAMES[2 * fold : 2 * fold + 2]
        rows += [f"{one}\t1\t2", f"{one}\t3\t{other}\t1"]
    (home / "pairs.txt").write_text("\n".join(rows) + "\n")
    train = ["2", "Person_U\t1\t2", "Person_A\t1\t3", "Person_U\t1\tPerson_A\t2"]
    (home / "pairsDevTrain.txt").write_text("\n".join([*train, "Person_V\t1\tPerson_U\t2"]) + "\n")
    test = ["1", "Person_W\t1\t2", "Person_W\t1\tPerson_X\t2"]
    (home / "pairsDevTest.txt").write_text("\n".join(test) + "\n")
    return home


@pytest.fixture
def lfw_here(home, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMJAX_LFW", str(home))
    monkeypatch.setattr(lfw, "IMAGES", 72)
    monkeypatch.setattr(lfw, "PEOPLE", 24)
    original = lfw.Lfw.__init__

    def in_own_folder(self, *, local):
        original(self, local=local, data_dir=tmp_path)

    monkeypatch.setattr(lfw.Lfw, "__init__", in_own_folder)
    return home


def test_lfw_that_is_here_is_said_and_not_switched_to(lfw_here, capsys):
    splits = load_verification(VerificationOptions())
    said = f"LFW (funneled) is in {lfw_here}; --data lfw trains on it\n"
    assert (splits.images.name, capsys.readouterr().err) == ("orl_faces", said)
    assert load_verification(VerificationOptions(data="lfw")).images.name == "lfw/funneled"
    assert capsys.readouterr().err == ""


def test_every_option_reaches_the_splits(lfw_here):
    splits = load_verification(VerificationOptions(data="lfw", lfw_fold=2, seed=3))
    assert (splits.request["lfw_fold"], splits.request["seed"]) == (2, 3)
    assert face_data.people_of(splits.images, splits.test) == {"Person_C", "Person_D"}
    divided = load_verification(VerificationOptions(validation_people=3, test_people=5, seed=3))
    counts = [
        len(face_data.people_of(divided.images, pairs))
        for pairs in (divided.validation, divided.test)
    ]
    assert counts == [3, 5]
    for name in ("validation_list", "test_list"):
        with pytest.raises(UsageError, match="is not a list file; leave out"):
            load_verification(VerificationOptions(**{name: lfw_here / "pairs.txt"}))


def test_not_found_says_nothing_and_asked_for_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lfw, "search_path", lambda: [tmp_path])
    monkeypatch.delenv("SIAMJAX_LFW", raising=False)
    assert load_verification(VerificationOptions()).images.name == "orl_faces"
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match=rf"no mirror; .* put it into DIR, one of {tmp_path}"):
        load_verification(VerificationOptions(data="lfw/deepfunneled"))


def test_named_folder(home, tmp_path, monkeypatch):
    """The variable may name the folder of people itself; a wrong one is an error."""
    monkeypatch.setenv("SIAMJAX_LFW", str(home / "lfw_funneled"))
    found = lfw.find("funneled")
    assert (found.images, found.home) == (home / "lfw_funneled", home)
    monkeypatch.setenv("SIAMJAX_LFW", str(tmp_path))
    with pytest.raises(UsageError, match=r"SIAMJAX_LFW is .*; expected DIR/lfw_funneled"):
        load_verification(VerificationOptions(data="lfw"))


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_archive_equals_folder(lfw_here, home, tmp_path, kind):
    source = home / "lfw_funneled"
    archive = tmp_path / f"lfw-funneled.{kind}"
    if kind == "tgz":
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(source, "lfw_funneled")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in source.rglob("*.jpg"):
                zipped.write(path, str(path.relative_to(home)))
                shadow = path.relative_to(home).with_name(f"._{path.name}")
                zipped.writestr(f"__MACOSX/{shadow}", b"a Mac's note")
    found = lfw.find("funneled", [tmp_path])
    assert found is not None
    from_archive = prepared_images(lfw.Lfw(local=found), credit="")
    shutil.rmtree(tmp_path / "lfw")
    local = lfw.find("funneled", [home])
    assert local is not None
    from_folder = prepared_images(lfw.Lfw(local=local), credit="")
    assert from_archive.checksum() == from_folder.checksum()
    assert from_archive.name == "lfw/funneled"
    assert len(from_archive) == 72


def test_broken_archive(tmp_path):
    (tmp_path / "lfw-funneled.tgz").write_bytes(b"not an archive")
    found = lfw.find("funneled", [tmp_path])
    with pytest.raises(UsageError, match=r"lfw-funneled.tgz: broken archive"):
        prepared_images(lfw.Lfw(local=found, data_dir=tmp_path / "d"), credit="")


def test_view_1_trains_and_the_leak_is_counted(lfw_here):
    splits = verification_splits("lfw", seed=0)
    assert len(splits.test) == 20
    assert "NOT the published pairsDevTrain.txt" in splits.protocol
    assert splits.trained_on == ("Person_A", "Person_U", "Person_V")
    # Person_A is in both pairs of fold 1
    assert "CONTAMINATED: 2 of its 20 pairs" in splits.protocol
    assert sorted(splits.training[i][2] for i in range(4)) == [False, False, True, True]


def test_fold_leaves_its_people_out(lfw_here):
    splits = verification_splits("lfw/funneled", seed=0, lfw_fold=1)
    assert face_data.people_of(splits.images, splits.test) == {"Person_A", "Person_B"}
    assert face_data.people_of(splits.images, splits.validation) == {"Person_S", "Person_T"}
    assert len(splits.trained_on) == 16
    assert not face_data.leaked(splits.images, splits.test, splits.trained_on).any()
    with pytest.raises(UsageError, match="fold 11"):
        verification_splits("lfw", seed=0, lfw_fold=11)


def test_people_in_two_splits_are_found(lfw_here, tmp_path):
    test = lfw_here / "pairsDevTest.txt"
    before = test.read_text()
    test.write_text(before.replace("Person_X", "Person_V"))
    try:
        with pytest.raises(UsageError, match="Person_V is in two splits"):
            verification_splits("lfw", seed=0)
    finally:
        test.write_text(before)


def test_incomplete_lfw_is_refused(lfw_here, monkeypatch):
    monkeypatch.setattr(lfw, "IMAGES", 13_233)
    with pytest.raises(UsageError, match="72 images of 24 people, but LFW has 13,233"):
        verification_splits("lfw", seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Person_C\t1\t2", "Person_C\t1\t9"), r"pairs.txt, line 4: Person_C/Person_C_0009.jpg"),
        (("Person_C\t1\t2", "Person_C\t1"), r"pairs.txt, line 4: expected 'name n1 n2'"),
        (("10\t1", "10\t2"), "20 pairs, but line 1 promises 10 x 2 x 2 = 40"),
        (("10\t1", "ten"), "line 1: expected"),
        (("Person_C\t1\t2\n", ""), "19 pairs"),
        (("Person_C\t3\tPerson_D", "Person_C\t3\tPerson_C"), "among the mismatched pairs"),
        (("10\t1\n", "10\t1\n\n\n"), None),
    ],
)
def test_wrong_pair_list(lfw_here, tmp_path, change, message):
    images = face_data.load_images("lfw")
    path = tmp_path / "pairs.txt"
    path.write_text((lfw_here / "pairs.txt").read_text().replace(*change))
    if message is None:
        assert len(lfw.read_pairs(path, images)) == 20
        return
    with pytest.raises(UsageError, match=message):
        lfw.read_pairs(path, images)


def test_official_list_has_its_published_form():
    """The real pairs.txt, where it is at hand."""
    from pathlib import Path

    path = Path(__file__).parents[3] / "shared" / "data" / "lfw" / "pairs.txt"
    if not path.exists():
        pytest.skip("no copy of LFW's pairs.txt beside the repository")
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    keys = set()
    for words in rows:
        numbered = [(words[0], words[1]), (words[0] if len(words) == 3 else words[2], words[-1])]
        keys |= {f"{name}/{name}_{int(number):04d}.jpg" for name, number in numbered}
    names = sorted(keys)
    images = lfw.ImageSet(
        name="lfw",
        credit="",
        keys=tuple(names),
        identities=np.array([key.split("/")[0] for key in names]),
        source=[b""] * len(names),
    )
    pairs = lfw.read_pairs(path, images)
    assert len(pairs) == 6000
    assert pairs.same.sum() == 3000
    assert pairs.fold is not None
    np.testing.assert_array_equal(np.bincount(pairs.fold)[1:], 600)
    people = [
        face_data.people_of(images, pairs.take(pairs.fold == f, name="")) for f in range(1, 11)
    ]
    assert sum(map(len, people)) == len(set().union(*people))  # folds share no one


@pytest.mark.parametrize("place", ["\udcff", "/dev/null", "no/such/place"])
def test_a_place_that_cannot_be_is_one_line(monkeypatch, place):
    monkeypatch.setenv("SIAMJAX_LFW", place)
    with pytest.raises(UsageError, match="SIAMJAX_LFW is"):
        lfw.find("funneled")
    monkeypatch.delenv("SIAMJAX_LFW")
    monkeypatch.setenv("TFDS_DATA_DIR", place)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", place)
    assert lfw.find("original") is None


@pytest.mark.parametrize(
    "text",
    ["²", "9" * 5000, "1\nP_A\t²\t2\nP_A\t1\tP_B\t1\n", "\x00", "1 2 3", "", "\n\n", "9" * 18],
)
def test_a_damaged_list_is_one_line(tmp_path, text):
    (tmp_path / "pairs.txt").write_text(text)
    images = of_arrays(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(UsageError, match=r"^/.*pairs.txt") as error:
        lfw.read_pairs(tmp_path / "pairs.txt", images)
    assert len(str(error.value)) < 500
