"""Batches of P identities with K images each."""

import numpy as np
import pytest
from test_batches import Config, assert_same, put_together, read

from siamjax.data import Augmentation, labelled_batches, of_arrays
from siamjax.data.labelled import SampledIdentities
from siamjax.data.transforms import resize
from siamjax.errors import UsageError

# Identity n has n images: one cannot be a pair, two to three are fewer than K = 4.
COUNTS = (1, 2, 3, 4, 5, 9)
SHOWN = np.repeat(COUNTS, COUNTS)


@pytest.fixture
def images(rng):
    """In no order; image i is of one colour, 10 i."""
    colours = np.full((len(SHOWN), 6, 6, 3), 10 * np.arange(len(SHOWN)).reshape(-1, 1, 1, 1))
    return of_arrays(colours.astype(np.uint8), rng.permutation(SHOWN))


def drawn(images, batch_size, *, seed=0, per_identity=4, indices=None):
    return SampledIdentities(
        images,
        np.arange(len(images)) if indices is None else indices,
        seed=seed,
        batch_size=batch_size,
        per_identity=per_identity,
    )


def test_each_batch_shows_p_identities_k_times(images):
    stream, shown = drawn(images, 12), images.identities
    for batch in range(50):
        indices = np.array([stream[12 * batch + place] for place in range(12)]).reshape(3, 4)
        identities = shown[indices]
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0])) == 3
        for row, who in zip(indices, identities[:, 0], strict=True):
            times = np.unique(row, return_counts=True)[1]
            # Of two images each twice, of three one twice, of four and more each once.
            assert sorted(times) == {"2": [2, 2], "3": [1, 1, 2]}.get(who, [1, 1, 1, 1])


def test_every_identity_comes_once_an_epoch_but_for_those_that_fill_no_batch(images):
    """Of five identities, two a batch, one sits out in each epoch, and not always the same."""
    stream, out, orders = drawn(images, 8), [], set()
    for epoch in range(40):
        order = [images.identities[stream[16 * epoch + place]] for place in range(0, 16, 4)]
        assert len(set(order)) == 4
        out += {"2", "3", "4", "5", "9"} - set(order)
        orders.add(tuple(order))
    assert set(out) == {"2", "3", "4", "5", "9"}
    assert len(orders) > 20


def test_all_images_of_an_identity_are_drawn_alike(images):
    stream, nine = drawn(images, 8), np.flatnonzero(images.identities == "9")
    seen = np.array([stream[position] for position in range(16 * 300)])
    times = np.array([(seen == image).sum() for image in nine])
    # 4 of 9 images in about 4 of 5 epochs
    assert np.abs(times - 300 * 4 / 9 * 4 / 5).max() < 4 * np.sqrt(times.mean())
    one = np.flatnonzero(images.identities == "1")
    assert not np.isin(one, seen)
    assert stream.left_out == 1


def test_identities_of_a_batch_are_drawn_each_by_itself():
    """Two of nine images each: which of them are drawn is seldom the same."""
    images = of_arrays(np.zeros((18, 6, 6), np.uint8), np.arange(18) // 9)
    stream = drawn(images, 8)
    places = np.array([stream[position] % 9 for position in range(8 * 20)]).reshape(20, 2, 4)
    assert (places[:, 0] == places[:, 1]).all(axis=1).sum() < 3


def test_the_seed_and_the_position_decide(images):
    positions = np.random.default_rng(0).permutation(400).tolist()
    straight = [drawn(images, 8)[position] for position in range(400)]
    stream = drawn(images, 8)
    assert [stream[position] for position in positions] == [straight[p] for p in positions]
    other = drawn(images, 8, seed=1)
    assert [other[position] for position in range(400)] != straight


def test_only_training_images_are_drawn(images):
    indices = np.flatnonzero(np.isin(images.identities, ["3", "4", "5"]))[1:]
    stream = drawn(images, 8, indices=indices)
    assert {stream[position] for position in range(400)} == set(indices.tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 8, "per_identity": 1}, "per_identity 1 must be at least 2"),
        (
            {"batch_size": 10},
            "batch of 10 images cannot show .* 4 images each; use a multiple of 4",
        ),
        ({"batch_size": 4}, "batch of 4 images cannot show two identities .* from 8"),
        (
            {"batch_size": 24},
            "arrays: 5 of 6 identities .* and a batch of 24 shows 6; use a batch of at most 20",
        ),
        (
            {"batch_size": 8, "indices": np.array([], int)},
            "arrays: 0 of 0 identities .* and a batch of 8 shows 2",
        ),
    ],
)
def test_what_makes_no_batch_is_refused(images, options, message):
    with pytest.raises(UsageError, match=message):
        drawn(images, **options)


def made(faces, *, workers=0, **changes):
    config = Config(seed=7, batch_size=8, steps=5, workers=workers)
    options = {"size": (16, 12), "per_identity": 2, "augmentation": Augmentation(), **changes}
    return labelled_batches(faces, np.arange(80), config, **options)


@pytest.fixture(scope="module")
def straight(faces):
    return read(made(faces))


class TestBatches:
    """The promises of all batches, for labelled ones."""

    def test_words_and_types(self, faces, straight):
        batch = straight[0]
        assert batch.keys() == {"image", "identity"}
        assert (batch["image"].shape, batch["image"].dtype) == ((8, 16, 12, 3), np.uint8)
        assert np.issubdtype(batch["identity"].dtype, np.integer)
        assert len(straight) == 5
        stream = drawn(faces, 8, seed=7, per_identity=2, indices=np.arange(80))
        names = np.unique(faces.identities)
        for number, one in enumerate(straight):
            shown = faces.identities[[stream[8 * number + place] for place in range(8)]]
            np.testing.assert_array_equal(names[one["identity"]], shown)
        keys = [faces.keys[stream[16 + place]] for place in range(2)]
        assert made(faces).describe(2, shown=2) == f"{keys[0]}, {keys[1]}, ... (8 images)"

    def test_images_are_those_drawn(self, faces):
        stream = drawn(faces, 8, seed=7, per_identity=2, indices=np.arange(80))
        batch = read(made(faces, augmentation=None))[3]
        for place, image in enumerate(batch["image"]):
            np.testing.assert_array_equal(image, resize(faces.image(stream[24 + place]), (16, 12)))

    def test_a_resumed_run_sees_the_same(self, faces, straight):
        assert_same(read(made(faces), 2), straight[2:])

    @pytest.mark.slow
    def test_worker_processes_give_the_same(self, faces, straight):
        assert_same(read(made(faces, workers=2), 3), straight[3:])

    @pytest.mark.parametrize("count", [2, 8])
    def test_parts_are_the_batches_of_one(self, faces, straight, count):
        """On eight processes the two images of an identity are read by two of them."""
        parts = [read(made(faces).divided(index, count), 3) for index in range(count)]
        assert_same(put_together(parts), straight[3:])

    def test_rows_in_place_of_images(self, faces):
        rows = np.arange(2 * len(faces), dtype=np.float32).reshape(-1, 2)
        found = made(faces, augmentation=None, rows=lambda: rows)
        stream = drawn(faces, 8, seed=7, per_identity=2, indices=np.arange(80))
        expected = rows[[stream[place] for place in range(8)]]
        np.testing.assert_array_equal(read(found)[0]["image"], expected)
        with pytest.raises(UsageError, match="rows replace the images"):
            made(faces, rows=lambda: rows)

    @pytest.mark.parametrize("change", ["recolor", "symmetries"])
    def test_symmetry_and_colours_are_those_of_the_identity(self, change):
        """Each identity has one image, twice: the K places of a batch must be equal."""
        rng = np.random.default_rng(0)
        arrays = rng.integers(0, 256, (4, 8, 8, 3), np.uint8).repeat(2, axis=0)
        images = of_arrays(arrays, np.arange(8) // 2)
        plain = {"mirror": False, "rotation": 0.0, "translation": 0.0, "scale": 0.0}
        found = labelled_batches(
            images,
            np.arange(8),
            Config(batch_size=8),
            size=8,
            per_identity=4,
            augmentation=Augmentation(**{**plain, change: True}),
        )
        changed = set()
        for batch in read(found):
            for group in batch["image"].reshape(2, 4, 8, 8, 3):
                assert (group == group[:1]).all()
                changed.add(group[0].tobytes())
        assert len(changed) > 8

    def test_each_image_is_augmented_by_itself(self):
        images = of_arrays(
            np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8), [0, 0, 1, 1]
        )
        found = labelled_batches(
            images,
            np.arange(4),
            Config(batch_size=8),
            size=8,
            per_identity=4,
            augmentation=Augmentation(),
        )
        assert len({image.tobytes() for batch in read(found) for image in batch["image"]}) == 48
