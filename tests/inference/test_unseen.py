import numpy as np
import pytest
from colours import colour_run, coloured

from siamjax.data import divide_people, of_arrays
from siamjax.data.people import People
from siamjax.errors import UsageError
from siamjax.inference import unseen
from siamjax.inference.unseen import check_unseen
from siamjax.training.seen import Seen


@pytest.fixture
def splits():
    """Of 20 people 12 train, 5 choose, 3 test."""
    return divide_people(coloured(20).images, seed=0, validation_people=5, test_people=3)


@pytest.fixture
def run(splits, tmp_path):
    Seen.of(splits).write(tmp_path)
    return colour_run(tmp_path, trained_on=list(splits.trained_on), data="colours")


def people_like(splits, names, *, called=str):
    """The images of some people, under other names, saved anew."""
    images = splits.images
    shown = [i for i, name in enumerate(images.identities) if name in names]
    pixels = [images.image(i).copy() for i in shown]
    identities = [called(images.identities[i]) for i in shown]
    return People(images=of_arrays(pixels, identities, name="others"))


def strangers():
    others = coloured(12, seed=9)
    renamed = of_arrays(
        [others.images.image(i) for i in range(48)], np.repeat([f"q{i}" for i in range(12)], 4)
    )
    return People(images=renamed)


def test_strangers_are_no_overlap(run):
    assert check_unseen(run, strangers()) == []


def test_people_of_the_training_are_refused_by_name_and_by_their_pixels(run, splits):
    one, two = splits.trained_on[:2]
    by_pixels = people_like(splits, [one, two], called=lambda name: f"anna {name}")
    with pytest.raises(UsageError) as refused:
        check_unseen(run, by_pixels)
    assert (
        f"others: 2 of 2 people, by the pixels of their images anna {one}, anna {two}, are"
        in str(refused.value)
    )
    assert "--allow-overlap" in str(refused.value)
    (told,) = check_unseen(run, by_pixels, allow_overlap=True)
    assert told.startswith("CONTAMINATED: 2 of 2 people")
    namesake = People(images=of_arrays(np.zeros((2, 2, 2), np.uint8), [one, "x"], name="others"))
    with pytest.raises(UsageError, match=f"1 of 2 people, by name {one}, are among"):
        check_unseen(run, namesake)


def test_numbers_mean_nobody_in_another_set(run):
    run.manifest["trained_on"] = ["1", "2"]
    pixels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    Seen(trained=[], chose=[], people=["3", "4"]).write(run.folder)
    numbered = People(images=of_arrays(pixels, ["1", "3"], name="others"))
    assert check_unseen(run, numbered) == []


def test_people_who_chose_the_checkpoint_are_named(run, splits):
    seen = Seen.read(run.folder)
    (told,) = check_unseen(run, people_like(splits, seen.people[:1], called=lambda name: "anna"))
    assert told.startswith(
        "1 of 1 people, by the pixels of their images anna, chose the checkpoint"
    )


def test_an_earlier_run_s_data_is_read_again_or_a_sentence_tells(run, splits, monkeypatch):
    (run.folder / "seen.json").unlink()
    some = people_like(splits, splits.trained_on[:1], called=lambda name: "anna")
    (told,) = check_unseen(run, some)  # its manifest names no data
    assert told == "which images the network was trained on is not known: only names were checked"
    run.manifest["trained_on"] = []
    (told,) = check_unseen(colour_run(run.folder), some)
    assert told == "which images the network was trained on is not known: nothing was checked"
    monkeypatch.setattr(unseen, "own_splits", lambda run: splits)
    with pytest.raises(UsageError, match="pixels of their images anna"):
        check_unseen(run, some)


def test_what_a_run_started_from_may_have_seen_more(run):
    run.manifest["config"] = {"start_from": {"run": "/runs/old", "known": None}}
    (told,) = check_unseen(run, strangers())
    assert told == "the run started from /runs/old, which does not tell what it has seen"


def test_copies_of_images_are_named(run):
    pixels = [np.full((2, 2), shade, np.uint8) for shade in (10, 20, 20, 30, 40, 10)]
    people = of_arrays(pixels, ["x", "x", "x", "y", "z", "z"], name="others")
    shared, copies = check_unseen(run, People(images=people))
    assert shared.startswith("x, z have images in common, which count as false matches;")
    assert copies.startswith("1 images are copies of others of the same person:")
