import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from siamjax.data import batches as module
from siamjax.data import of_arrays
from siamjax.data.batches import image_batches, pair_batches, triplet_batches
from siamjax.data.catalogue import Catalogue
from siamjax.data.pairs import SampledPairs, generator
from siamjax.data.transforms import (
    Augmentation,
    Symmetry,
    augment,
    color_table,
    recolored,
    resize,
)
from siamjax.data.triplets import ListedTriplets, SampledTriplets
from siamjax.errors import Hung, UsageError
from siamjax.messages import silent


@dataclass(frozen=True)
class Config:
    """What of a ``RunConfig`` batches are made by."""

    seed: int = 0
    batch_size: int = 4
    steps: int = 6
    workers: int = 0


def read(batches, start=0):
    iterator = batches(start)
    result = list(iterator)
    iterator.close()
    return result


def batches(faces, *, start=0, size=16, augmentation=Augmentation(), **config):  # noqa: B008
    people = sorted(set(faces.identities))[:6]
    made = pair_batches(
        faces,
        SampledPairs(faces, people, seed=0),
        Config(**config),
        size=size,
        augmentation=augmentation,
    )
    return read(made, start)


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def straight(faces):
    return batches(faces)


def test_words_and_types(straight):
    assert len(straight) == 6
    batch = straight[0]
    assert batch["x1"].shape == batch["x2"].shape == (4, 16, 16, 3)
    assert batch["x1"].dtype == np.uint8
    assert batch["same"].dtype == np.bool_


def test_a_resumed_run_sees_the_same(faces, straight):
    assert_same(batches(faces, start=2), straight[2:])


def test_worker_processes_give_the_same(faces, straight):
    assert_same(batches(faces, workers=2), straight)


def put_together(parts):
    """The batches of all processes, each batch's rows one after the other."""
    return [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]


class TestSeveralProcesses:
    """Each reads its rows of every batch; together they have the batches of one process."""

    def made(self, faces, **config):
        pairs = SampledPairs(faces, sorted(set(faces.identities))[:6], seed=0)
        return pair_batches(faces, pairs, Config(**config), size=16, augmentation=Augmentation())

    @pytest.mark.parametrize("count", [2, 4])
    @pytest.mark.parametrize("start", [0, 2])
    def test_parts_are_the_batches_of_one(self, faces, straight, count, start):
        made = self.made(faces)
        parts = [read(made.divided(index, count), start) for index in range(count)]
        assert [len(part[0]["same"]) for part in parts] == [4 // count] * count
        assert_same(put_together(parts), straight[start:])
        assert made.divided(1, count).describe(3) == made.describe(3)

    @pytest.mark.slow
    def test_parts_of_worker_processes(self, faces, straight):
        made = self.made(faces, workers=2)
        parts = [read(made.divided(index, 2), 3) for index in range(2)]
        assert_same(put_together(parts), straight[3:])

    def test_triplets(self, faces, stream):
        made = triplet_batches(faces, stream, Config(), size=16)
        parts = [read(made.divided(index, 4), 1) for index in range(4)]
        assert_same(put_together(parts), read(made, 1))

    def test_a_batch_that_cannot_be_split(self, faces):
        refused = "batch of 6 pairs cannot be split over 4 processes; use a multiple of 4"
        with pytest.raises(UsageError, match=refused):
            self.made(faces, batch_size=6).divided(0, 4)
        with pytest.raises(UsageError, match="batch of 6 images cannot be split over 4 processes"):
            next(image_batches(faces, np.arange(6), batch_size=6, size=16, part=(0, 4)))

    @pytest.mark.parametrize("images", [0, 1, 3, 8, 9, 13])
    @pytest.mark.parametrize("count", [2, 4])
    def test_parts_of_image_batches(self, faces, images, count):
        """Also where the last batch has no image for a process, which has padding then."""
        indices = np.arange(images)[::-1]
        options = {"batch_size": 8, "size": (16, 12)}
        parts = [
            list(image_batches(faces, indices, part=(index, count), **options))
            for index in range(count)
        ]
        assert_same(put_together(parts), list(image_batches(faces, indices, **options)))


@dataclass(frozen=True)
class Hanging:
    """Images of which one does not come until it may."""

    images: object
    hangs: int
    may: threading.Event

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index == self.hangs:
            self.may.wait(60)
        return self.images[index]


class TestHangsAndDeaths:
    """A read that does not end and a worker that dies are named, and no process is left."""

    def made(self, images, **config):
        pairs = SampledPairs(images, seed=0)
        return pair_batches(images, pairs, Config(**config), size=4)

    @pytest.fixture
    def images(self):
        people = [0, 0, 0, 1, 1, 1]
        return of_arrays(np.zeros((6, 8, 8, 3), np.uint8), people)

    @pytest.fixture
    def hanging(self, images, monkeypatch):
        """Image 4 hangs during the test, after which the threads end."""
        monkeypatch.setattr(module, "_SAID_AFTER", 0.3)
        monkeypatch.setattr(module, "_GIVEN_UP_AFTER", 0.8)
        may = threading.Event()
        yield replace(images, source=Hanging(images.source, 4, may))
        may.set()

    def test_a_read_that_hangs(self, hanging, capsys):
        made = self.made(hanging)
        step = next(step for step in range(6) if "4" in made.describe(step))
        with pytest.raises(Hung) as error, silent():  # as in a process that is not the first
            read(made)
        named = f"the batch of step {step + 1} ({made.describe(step)})"
        assert str(error.value).startswith(f"1 s without {named}: the read hangs; look whether")
        assert f"warning: 0 s without {named}; waiting up to 1 s" in capsys.readouterr().err

    def test_an_image_that_hangs(self, hanging, capsys):
        with pytest.raises(Hung, match="1 s without the image 4 of arrays: the read hangs"):
            list(image_batches(hanging, np.arange(6), batch_size=2, size=4))
        assert "warning: 0 s without the image 4 of arrays; waiting" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "how",
        [
            pytest.param(signal.SIGKILL, id="killed"),
            pytest.param(signal.SIGSTOP, id="stopped", marks=pytest.mark.slow),
        ],
    )
    def test_workers(self, images, monkeypatch, how):
        made = self.made(images, workers=2, steps=40)
        batches = made(0)
        for _ in range(3):
            next(batches)
        monkeypatch.setattr(module, "_SAID_AFTER", 2.0)
        monkeypatch.setattr(module, "_GIVEN_UP_AFTER", 3.0)
        workers = multiprocessing.active_children()
        for worker in workers:  # these are left to the training process
            os.kill(worker.pid, signal.SIGINT)
            os.kill(worker.pid, signal.SIGTERM)
        os.kill(workers[0].pid, how)
        with pytest.raises(UsageError) as error:
            list(batches)
        said = {
            signal.SIGKILL: "does not come: the worker was ended by SIGKILL; if the machine is",
            signal.SIGSTOP: "the read hangs; look whether the disk",
        }
        assert said[how] in str(error.value)
        assert re.search(r"the batch of step \d+ from data worker [12] of 2 \(", str(error.value))
        batches.close()
        assert not any(worker.is_alive() for worker in workers)

    def test_a_program_ends(self):
        """Though a thread hangs for ever, which Python would wait for."""
        program = """
            import time
            from dataclasses import replace
            import numpy as np
            from siamjax import cli
            from siamjax.data import batches, of_arrays

            class Source(list):
                def __getitem__(self, index):
                    time.sleep(1000)

            def main():
                batches._SAID_AFTER, batches._GIVEN_UP_AFTER = 0.1, 0.2
                images = replace(of_arrays(np.zeros((2, 4, 4), np.uint8)), source=Source([1, 2]))
                list(batches.image_batches(images, np.arange(2), batch_size=2, size=4))

            cli.guard(main)
        """
        words = [sys.executable, "-c", textwrap.dedent(program)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        _, error = done.stderr.splitlines()
        assert error.startswith("error: 0 s without the image 0 of arrays: the read hangs; look")

    @pytest.mark.slow
    def test_workers_end_with_a_training_process_that_is_killed(self, tmp_path):
        program = """
            import multiprocessing, os, signal
            import numpy as np
            from types import SimpleNamespace
            from siamjax.data import batches, of_arrays, pairs

            if __name__ == "__main__":
                images = of_arrays(np.zeros((4, 4, 4), np.uint8), [0, 0, 1, 1])
                reading = SimpleNamespace(seed=0, batch_size=2, steps=99, workers=2)
                drawn = pairs.SampledPairs(images, seed=0)
                read = batches.pair_batches(images, drawn, reading, size=4)(0)
                next(read)
                print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        """
        (tmp_path / "program.py").write_text(textwrap.dedent(program))
        words = [sys.executable, "program.py"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == -signal.SIGKILL
        workers = done.stdout.split()
        assert len(workers) == 2
        for _ in range(100):
            if not any(os.path.exists(f"/proc/{worker}") for worker in workers):
                return
            time.sleep(0.1)
        pytest.fail(f"still there: {workers}")


def test_beginning_anew_gives_the_same_and_the_seed_matters(faces, straight):
    made = pair_batches(
        faces,
        SampledPairs(faces, sorted(set(faces.identities))[:6], seed=0),
        Config(),
        size=16,
        augmentation=Augmentation(),
    )
    for start in (5, 2, 5):  # one after the other of the same batches
        assert_same(read(made, start), straight[start:])
    other = batches(faces, seed=1)[0]
    assert not np.array_equal(other["x1"], straight[0]["x1"])  # augmented otherwise
    np.testing.assert_array_equal(other["same"], straight[0]["same"])  # of the same pairs


def test_a_batch_is_described_by_the_names_of_its_first_images(faces):
    pairs = SampledPairs(faces, sorted(set(faces.identities))[:6], seed=0)
    made = pair_batches(faces, pairs, Config(batch_size=3), size=16)
    names = [
        " + ".join(faces.keys[index] for index in pairs[position][:2]) for position in range(6, 9)
    ]
    assert made.unit == "pairs"
    assert made.describe(2) == ", ".join(names)
    assert made.describe(2, shown=2) == f"{names[0]}, {names[1]}, ... (3 pairs)"


def test_pairs_from_arrays_in_memory():
    """Image i is of one colour, 10 i: what is in a batch can be read off."""
    arrays = np.full((6, 8, 8, 3), 10 * np.arange(6).reshape(6, 1, 1, 1), np.uint8)
    people = [7, 7, 7, 8, 9, 9]
    images = of_arrays(arrays, people)
    made = pair_batches(images, SampledPairs(images, seed=0), Config(steps=20), size=4)
    got = read(made)
    assert len(got) == 20
    first, second = (
        np.concatenate([batch[name][:, 0, 0, 0] // 10 for batch in got]) for name in ("x1", "x2")
    )
    same = np.concatenate([batch["same"] for batch in got])
    assert (first != second).all()
    assert set(first) | set(second) == set(range(6))
    shown = np.array(people)
    np.testing.assert_array_equal(same, shown[first] == shown[second])
    assert same.mean() == 0.5
    assert got[0]["x1"].shape == (4, 4, 4, 3)


class TestRows:
    """What was computed of each image once stands for it."""

    def made(self, images, rows, **options):
        return pair_batches(
            images, SampledPairs(images, seed=0), Config(), size=4, rows=rows, **options
        )

    def test_they_are_asked_for_when_training_begins_and_no_image_is_read(self):
        images = of_arrays(np.zeros((6, 4, 4), np.uint8), [0, 0, 1, 1, 2, 2])
        calls = []

        def rows():
            calls.append("called")
            return np.arange(6 * 5, dtype=np.float32).reshape(6, 5)

        made = self.made(images, rows)
        described = made.describe(0)
        assert calls == []
        got = read(made)
        assert calls == ["called"]
        pairs = SampledPairs(images, seed=0)
        for position in range(24):
            first, second, same = pairs[position]
            batch, place = got[position // 4], position % 4
            np.testing.assert_array_equal(batch["x1"][place], np.arange(5) + 5 * first)
            np.testing.assert_array_equal(batch["x2"][place], np.arange(5) + 5 * second)
            assert batch["same"][place] == same
        assert described.startswith(f"{pairs[0][0]} + {pairs[0][1]}, ")

    def test_refused_with_augmentation_and_of_another_number(self):
        images = of_arrays(np.zeros((4, 4, 4), np.uint8), [0, 0, 1, 1])
        with pytest.raises(
            UsageError, match="rows replace the images, so that nothing can be augmented"
        ):
            self.made(images, lambda: np.zeros((4, 5)), augmentation=Augmentation())
        with pytest.raises(UsageError, match="5 rows for 4 images"):
            self.made(images, lambda: np.zeros((5, 5)))(0)

    def test_of_triplets(self, faces, stream):
        rows = np.arange(len(faces))
        made = triplet_batches(faces, stream, Config(), size=4, rows=lambda: rows)
        batch = read(made)[1]
        for place in range(4):
            got = [batch[name][place] for name in ("anchor", "positive", "negative")]
            assert got == list(stream[4 + place])


def test_sizes_that_are_none():
    images = of_arrays(np.zeros((4, 4, 4), np.uint8), [0, 0, 1, 1])
    with pytest.raises(UsageError, match="size 0 must be at least 1"):
        pair_batches(images, SampledPairs(images, seed=0), Config(), size=0)


def test_without_augmentation_a_image_is_itself(faces):
    batch = batches(faces, augmentation=None)[0]
    known = {resize(faces.image(i), 16).tobytes() for i in range(60)}
    assert all(image.tobytes() in known for image in batch["x1"])


def test_ragged_end_is_padded_with_weight_0(faces):
    got = list(image_batches(faces, np.array([5, 3, 9]), batch_size=2, size=16))
    assert [b["weight"].tolist() for b in got] == [[1, 1], [1, 0]]
    np.testing.assert_array_equal(got[0]["image"][1], resize(faces.image(3), 16))
    np.testing.assert_array_equal(got[1]["image"][0], resize(faces.image(9), 16))


@pytest.fixture(scope="module")
def stream(faces):
    catalogue = Catalogue(images=faces, attributes={})
    return SampledTriplets(catalogue, np.arange(60), seed=0, category=None)


class TestTriplets:
    """The same promises for batches of three images."""

    def batches(self, faces, stream, *, start=0, workers=0, **changes):
        options = {"augmentation": Augmentation(), "size": (16, 12), **changes}
        made = triplet_batches(
            faces,
            stream,
            Config(seed=7, steps=5, workers=workers),
            **options,
        )
        assert made.unit == "triplets"
        return read(made, start)

    @pytest.mark.parametrize("recolor", [False, True])
    def test_each_image_is_read_and_augmented_in_turn(self, faces, stream, recolor):
        options = Augmentation(recolor=recolor)
        got = self.batches(faces, stream, augmentation=options)
        assert len(got) == 5
        own = 0
        for position in range(20):
            rng, colors = (generator(7, position, stream=s) for s in (1, 3))
            table = color_table(colors)
            for place, word in enumerate(("anchor", "positive", "negative")):
                image = resize(faces.image(stream[position][place]), (16, 12))
                image = augment(image, options, rng)
                if word == "negative" and colors.random() >= 0.5:
                    table = color_table(colors)
                    own += 1
                if recolor:
                    image = recolored(image, table)
                batch = got[position // 4][word]
                assert batch.shape == (4, 16, 12, 3)
                assert batch.dtype == np.uint8
                np.testing.assert_array_equal(batch[position % 4], image)
        assert 4 <= own <= 16
        assert set(got[0]) == {"anchor", "positive", "negative", "identity", "negative_identity"}
        for position in range(20):  # equal numbers, equal identities
            shown = [faces.identities[index] for index in stream[position]]
            batch, place = got[position // 4], position % 4
            numbers = batch["identity"][place], batch["negative_identity"][place]
            assert [sorted(set(faces.identities))[number] for number in numbers] == shown[::2]

    def test_one_symmetry_for_all_three(self, faces, stream):
        plain = self.batches(faces, stream, augmentation=Augmentation(), size=16)
        got = self.batches(faces, stream, augmentation=Augmentation(symmetries=True), size=16)
        for position in range(20):
            symmetry = Symmetry.draw(generator(7, position, stream=6))
            for word in ("anchor", "positive", "negative"):
                step, place = divmod(position, 4)
                expected = symmetry(plain[step][word][place])
                np.testing.assert_array_equal(got[step][word][place], expected)

    def test_a_resumed_run_sees_the_same(self, faces, stream):
        straight = self.batches(faces, stream)
        assert_same(self.batches(faces, stream, start=2), straight[2:])

    def test_refuses(self, faces, stream):
        with pytest.raises(UsageError, match="workers -1"):
            self.batches(faces, stream, workers=-1)

    @pytest.mark.slow
    def test_worker_processes_give_the_same(self, faces, stream):
        assert_same(self.batches(faces, stream, workers=2), self.batches(faces, stream))


class TestAugment:
    """One random affine map, about the centre."""

    def test_nothing_asked_nothing_changed(self, faces, rng):
        image = resize(faces.image(0), 32)
        still = Augmentation(mirror=False, rotation=0, translation=0, scale=0)
        np.testing.assert_array_equal(augment(image, still, rng), image)

    def test_mirror_alone(self, faces):
        image = resize(faces.image(0), 32)
        mirror = Augmentation(mirror=True, rotation=0, translation=0, scale=0)
        seen = {augment(image, mirror, np.random.default_rng(s)).tobytes() for s in range(20)}
        assert seen == {image.tobytes(), image[:, ::-1].tobytes()}

    def test_corners_of_a_turn(self):
        """A quarter turn takes the centre to itself, and keeps distances to it."""

        class Fixed:
            def random(self):
                return 1.0

            def uniform(self, low, high, count):
                return np.array([1.0, 0.0, 0.0, 0.0])

        matrix = Augmentation(mirror=False, rotation=90).matrix(Fixed(), 10)
        np.testing.assert_allclose(matrix @ [5, 5, 1], [5, 5])
        np.testing.assert_allclose(matrix @ [10, 5, 1], [5, 10], atol=1e-12)

    def test_bounds(self, rng):
        """No drawn map leaves the asked range of scale and shift."""
        options = Augmentation(rotation=20, translation=0.1, scale=0.2)
        for _ in range(200):
            matrix = options.matrix(rng, 100)
            zoom = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
            assert 0.8 - 1e-9 <= zoom <= 1.2 + 1e-9
            source_of_centre = matrix @ [50, 50, 1]
            shift = np.linalg.inv(matrix[:, :2]) @ (source_of_centre - 50)
            assert np.abs(shift).max() <= 10 + 1e-9


def test_symmetries(rng):
    """48 of them, each of which keeps the shape, and turns images that are no square by half."""
    square, oblong = (rng.integers(0, 256, shape, np.uint8) for shape in ((4, 4, 3), (4, 6, 3)))
    drawn = [Symmetry.draw(rng) for _ in range(2000)]
    assert len({one(square).tobytes() for one in drawn}) == 48
    assert len({one(oblong).tobytes() for one in drawn}) == 24
    assert {one(oblong).shape for one in drawn} == {(4, 6, 3)}
    same = Symmetry(mirror=False, quarters=0, channels=(0, 1, 2))
    np.testing.assert_array_equal(same(oblong), oblong)
    turned = Symmetry(mirror=True, quarters=1, channels=(2, 0, 1))(square)
    np.testing.assert_array_equal(turned, np.rot90(square[:, ::-1], 1)[..., [2, 0, 1]])


def test_identities_of_triplets_are_all_known_or_none():
    """Images that are not known would count as one identity when a batch is mined."""
    images, listed = np.zeros((4, 8, 8, 3), np.uint8), ListedTriplets(np.array([[0, 1, 2]]), seed=0)

    def made(identities):
        return triplet_batches(of_arrays(images, identities), listed, Config(batch_size=1), size=4)

    for whole in (["a", "a", "b", "b"], None):
        assert read(made(whole))[0]["identity"].shape == (1,)
    with pytest.raises(UsageError, match="identities: 2 of 4"):
        made(["a", "a", "", ""])
