import itertools

import numpy as np
import pytest

from siamjax.data.images import ImageSet, images_of, of_arrays
from siamjax.data.pairs import (
    ListedPairs,
    PairList,
    PositivesOfAnEpoch,
    SampledPairs,
    all_pairs,
    split_people,
)
from siamjax.errors import UsageError


def image_set(counts):
    identities = [f"p{person}" for person, count in enumerate(counts) for _ in range(count)]
    keys = tuple(f"{i}.png" for i in range(len(identities)))
    return ImageSet(
        name="made",
        credit="",
        keys=keys,
        identities=np.array(identities),
        source=[b""] * len(keys),
    )


def test_all_pairs_once():
    images = image_set([2, 3, 1])
    pairs = all_pairs(images, np.array([0, 2, 3, 5]), name="some")
    got = list(zip(pairs.first, pairs.second, pairs.same, strict=True))
    expected = [
        (a, b, images.identities[a] == images.identities[b])
        for a, b in itertools.combinations([0, 2, 3, 5], 2)
    ]
    assert got == expected


def test_limited_pairs_are_different_valid_and_said():
    images = image_set([5] * 6)
    pairs = all_pairs(images, np.arange(30), name="all", limit=100)
    assert len(pairs) == 100
    assert len(set(zip(pairs.first, pairs.second, strict=True))) == 100
    assert (pairs.first < pairs.second).all()
    assert "100 of 435" in pairs.name


def test_split_is_disjoint_and_whole(faces):
    parts = split_people(faces, validation=6, test=10, seed=3)
    assert [len(part) for part in parts] == [24, 6, 10]
    assert len(set().union(*parts)) == 40
    assert parts != split_people(faces, validation=6, test=10, seed=4)
    assert parts == split_people(faces, validation=6, test=10, seed=3)


def test_people_with_one_image_only_train():
    images = image_set([2, 2, 2, 2, 2, 1, 1, 1, 1])
    train, _, _ = split_people(images, validation=2, test=2, seed=0)
    assert {"p5", "p6", "p7", "p8"} <= set(train)
    with pytest.raises(UsageError, match="5 of 9 people have two images"):
        split_people(images, validation=3, test=2, seed=0)


def test_drawn_pairs_are_right_balanced_and_repeatable(faces):
    train, _, _ = split_people(faces, validation=6, test=10, seed=0)
    stream = SampledPairs(faces, train, seed=0)
    drawn = [stream[i] for i in range(400)]
    for first, second, same in drawn:
        assert same == (faces.identities[first] == faces.identities[second])
        assert first != second
        assert {faces.identities[first], faces.identities[second]} <= set(train)
    for start in range(0, 400, 8):  # every batch of 8 holds 4 and 4
        assert sum(same for *_, same in drawn[start : start + 8]) == 4
    assert drawn[123] == SampledPairs(faces, train, seed=0)[123]
    assert drawn != [SampledPairs(faces, train, seed=1)[i] for i in range(400)]
    assert len({faces.identities[f] for f, _, _ in drawn}) == len(train)


def test_other_shares(faces):
    people = sorted(set(faces.identities))[:4]
    quarter = SampledPairs(faces, people, seed=0, positive_share=0.25)
    assert [quarter[i][2] for i in range(8)] == [False, False, False, True] * 2
    natural = SampledPairs(faces, people, seed=0, positive_share=None)
    share = np.mean([natural[i][2] for i in range(600)])
    assert abs(share - 9 / 39) < 0.06  # 9 of the 39 other images are of the same person


def test_listed_pairs_come_whole_each_epoch_in_new_order():
    pairs = PairList(
        name="l", first=np.arange(10), second=np.arange(10, 20), same=np.arange(10) % 2 == 0
    )
    stream = ListedPairs(pairs, seed=0)
    epochs = [[stream[e * 10 + i] for i in range(10)] for e in range(2)]
    whole = [(i, i + 10, i % 2 == 0) for i in range(10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == whole
    assert epochs[0] != epochs[1]
    assert stream[3] == epochs[0][3]


@pytest.mark.parametrize(
    ("counts", "message"), [([1, 1, 1], "single image"), ([4], "no pair of two people")]
)
def test_no_pair_of_one_kind(counts, message):
    images = image_set(counts)
    with pytest.raises(UsageError, match=message):
        SampledPairs(images, sorted(set(images.identities)), seed=0)
    with pytest.raises(UsageError, match="no pair of"):
        all_pairs(images, np.arange(len(images)), name="all")


def test_too_few_pairs_of_enough_people():
    images = of_arrays(np.zeros((30, 2, 2), np.uint8), np.repeat(["a", "b", "c"], 10), name="x")
    with pytest.raises(UsageError, match=r"1 of 435 .* make no pair of .*; draw more pairs"):
        all_pairs(images, np.arange(30), name="all", limit=1)


def test_images_of():
    images = image_set([2, 1, 2])
    np.testing.assert_array_equal(images_of(images, ["p0", "p2"]), [0, 1, 3, 4])


def test_positives_of_an_epoch(faces):
    """3 people with 10 images: 3 x 45 pairs of one person, each once an epoch, 2 others each."""
    indices = np.arange(30)
    pairs = PositivesOfAnEpoch(faces, indices, seed=3)
    assert pairs.epoch == 3 * 3 * 45
    drawn = [pairs[position] for position in range(2 * pairs.epoch)]
    for epoch in (drawn[: pairs.epoch], drawn[pairs.epoch :]):
        positives = [tuple(sorted(pair[:2])) for pair in epoch if pair[2]]
        assert len(positives) == len(set(positives)) == 135
        assert sum(not same for *_, same in epoch) == 270
    for first, second, same in drawn:
        assert (faces.identities[first] == faces.identities[second]) == same
        assert max(first, second) < 30
    assert [p[:2] for p in drawn[: pairs.epoch]] != [p[:2] for p in drawn[pairs.epoch :]]
    assert any(first > second for first, second, _ in drawn)  # either may come first
    again = PositivesOfAnEpoch(faces, indices, seed=3)
    assert [again[p] for p in (700, 5, 300)] == [drawn[p] for p in (700, 5, 300)]
    other = PositivesOfAnEpoch(faces, indices, seed=4)
    assert [other[p] for p in range(9)] != drawn[:9]


def test_positives_of_two_cameras(faces):
    cameras = np.arange(len(faces)) % 10 // 5  # five images of each person by each camera
    pairs = PositivesOfAnEpoch(faces, np.arange(20), seed=0, cameras=cameras, negatives=1)
    assert pairs.epoch == 2 * 2 * 25
    drawn = [pairs[position] for position in range(pairs.epoch)]
    assert all(cameras[a] != cameras[b] for a, b, same in drawn if same)


def test_positives_refuse_what_gives_none(faces):
    with pytest.raises(UsageError, match="1 person to train on"):
        PositivesOfAnEpoch(faces, np.arange(10), seed=0)
    with pytest.raises(UsageError, match="no training person has two images,"):
        PositivesOfAnEpoch(faces, np.array([0, 10]), seed=0)
    with pytest.raises(UsageError, match="of two cameras"):
        PositivesOfAnEpoch(faces, np.arange(20), seed=0, cameras=np.zeros(400, int))
    with pytest.raises(UsageError, match="negatives 0"):
        PositivesOfAnEpoch(faces, np.arange(20), seed=0, negatives=0)


def test_without_people_all_of_the_set_are_drawn():
    images = image_set([2, 3, 1, 4])
    everyone = sorted(set(images.identities.tolist()))
    for share in (0.5, None):
        drawn, named = (
            SampledPairs(images, people, seed=5, positive_share=share)
            for people in (None, everyone)
        )
        pairs = [drawn[position] for position in range(200)]
        assert pairs == [named[position] for position in range(200)]
        assert {index for first, second, _ in pairs for index in (first, second)} == set(range(10))


@pytest.mark.parametrize("same", [[1, 0], [1, -1], ["yes", "no"], [1.0, 0.0]], ids=str)
def test_labels_of_a_list_are_bool(same):
    with pytest.raises(UsageError, match="same must be bool"):
        PairList(name="x", first=np.arange(2), second=np.arange(2), same=np.array(same))


def test_a_list_has_one_of_each_for_every_pair():
    with pytest.raises(UsageError, match=r"first, second, same, fold of \[2, 3\] pairs"):
        PairList(name="x", first=np.arange(3), second=np.arange(3), same=np.array([True, False]))
    with pytest.raises(UsageError, match="fold: 1 of 2"):
        PairList(
            name="x",
            first=np.arange(2),
            second=np.arange(2),
            same=np.array([True, False]),
            fold=np.array([1, np.nan]),
        )


def test_images_whose_people_are_partly_unknown_make_no_pairs():
    """Else all unknown ones would count as one person."""
    images = of_arrays(np.zeros((5, 4, 4, 3), np.uint8), ["a", "a", "", "b", ""])
    every = np.arange(5)
    for make in (
        lambda: all_pairs(images, every, name="all"),
        lambda: SampledPairs(images, seed=0),
        lambda: PositivesOfAnEpoch(images, every, seed=0),
        lambda: split_people(images, validation=2, test=2, seed=0),
    ):
        with pytest.raises(UsageError, match=r"identities of arrays: 2 of 5 .* '' at 2"):
            make()


@pytest.mark.parametrize("cameras", [[1.0, np.nan, 2.0], [1, "2", 1], [1, 2]], ids=str)
def test_cameras_of_pairs_are_known(cameras):
    images = of_arrays(np.zeros((3, 4, 4, 3), np.uint8), ["a", "a", "b"])
    with pytest.raises(UsageError, match="cameras"):
        PositivesOfAnEpoch(images, np.arange(3), seed=0, cameras=cameras)
