import dataclasses

import numpy as np
import pytest
from PIL import Image
from splits import verification_splits

from siamjax.data import divide_people, of_arrays
from siamjax.data.images import of_files
from siamjax.data.people import open_people, people_of
from siamjax.training.seen import Seen


@pytest.fixture
def splits(rng):
    """Eight people of two images; two train, three choose, three test."""
    images = of_arrays(rng.integers(0, 256, (16, 6, 5), np.uint8), np.repeat(list("abcdefgh"), 2))
    return divide_people(images, seed=0, validation_people=3, test_people=3)


def test_tells_apart_who_trained_who_chose_and_who_did_neither(splits, tmp_path):
    seen = Seen.of(splits)
    seen.write(tmp_path)
    assert Seen.read(tmp_path) == seen
    assert len(seen.trained) == 4
    assert len(seen.chose) == 6
    assert not {*seen.trained} & {*seen.chose}
    tested = people_of(splits)
    assert {*tested.names, *seen.people, *splits.trained_on} == set("abcdefgh")
    assert not {*tested.images.content(np.arange(6))} & {*seen.trained, *seen.chose}


def test_an_image_saved_again_without_loss_is_the_same_and_another_is_not(splits, tmp_path):
    pixels = splits.images.image(3)
    Image.fromarray(pixels).save(tmp_path / "again.bmp")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "turned.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    names = ("again.bmp", "turned.png", "broken.png")
    files = of_files([tmp_path / name for name in names], name="files")
    again, turned, broken = files.content(np.arange(3))
    assert [again] == splits.images.content(np.array([3]))
    assert len({again, turned, broken}) == 3  # the shape counts, too
    assert broken == ""


def test_a_list_names_no_people_and_only_its_own_images_count(splits, tmp_path):
    for index in range(12):
        Image.fromarray(splits.images.image(index)).save(tmp_path / f"{index}.png")
    for name, first in (("train", 0), ("choose", 4), ("test", 8)):
        pairs = f"{first}.png {first + 1}.png 1\n{first}.png {first + 2}.png 0\n"
        (tmp_path / name).write_text(pairs)
    listed = verification_splits(
        str(tmp_path / "train"), validation_list=tmp_path / "choose", test_list=tmp_path / "test"
    )
    seen, content = Seen.of(listed), splits.images.content(np.arange(12))
    assert seen.trained == sorted(content[:3])
    assert seen.chose == sorted(content[4:7])
    assert (
        seen.people == people_of(listed).names == open_people(str(tmp_path / "train")).names == []
    )
    tested = people_of(listed)
    assert tested.images.content(np.arange(len(tested.images))) == content[8:11]
    assert tested.pairs.second.tolist() == [1, 2]


def test_splits_that_do_not_tell_have_none():
    assert Seen.of(dataclasses.make_dataclass("Own", ["images"])(images=None)) is None
