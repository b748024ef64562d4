import math

import numpy as np
import pytest
from colours import ColourLogit, colour_run, coloured
from PIL import Image

from siamjax.data import of_arrays
from siamjax.data.open_catalogue import open_catalogue
from siamjax.data.people import People
from siamjax.errors import UsageError
from siamjax.inference import compare_people
from siamjax.inference.embedder import Embedder
from siamjax.search.embed_catalogue import embed_catalogue
from siamjax.search.unknowns import open_set_of, search_gallery


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    people = coloured(120, each=3, spread=4.0)
    return compare_people(colour_run(tmp_path_factory.mktemp("run")), people, progress=False)


def colour(compared, image):
    return compared.people.images.image(image)[0, 0].astype(float)


def measure_by_hand(compared, searched, one, other):
    a, b = colour(compared, one), colour(compared, other)
    if searched == "cosine":
        return 1 - a @ b / math.sqrt((a @ a) * (b @ b))
    squared = float(np.square(a - b).sum())
    return squared if searched == "squared_euclidean" else math.sqrt(squared)


def test_a_gallery_of_some_people_is_searched_for_all_others(compared):
    names = compared.people.images.identities
    ways = {one.searched: one for one in search_gallery(compared, 50)}
    assert set(ways) == {"squared_euclidean", "cosine", "compare"}
    for searched, found in ways.items():
        # 40 of 120 people are enrolled, ten of them with a second image: 50 images. The others
        # search with all of their images, the enrolled with those that are left.
        assert len(found.best) == 80 * 3
        assert len(found.mate) == 30 * 2 + 10
        assert not set(found.person) & set(found.mate)
        enrolled = {compared.people.names[number] for number in found.mate}
        assert len(enrolled) == 40
        # The best score of a stranger is one with an image of an enrolled person.
        asked = next(i for i, name in enumerate(names) if name not in enrolled)
        near = [
            measure_by_hand(compared, searched, asked, i)
            for i, name in enumerate(names)
            if name in enrolled
        ]
        assert any(math.isclose(-found.best[0], value, rel_tol=1e-5) for value in near)


def test_thresholds_keep_strangers_out_and_errors_are_those_of_other_people(compared):
    for found, searches in zip(
        open_set_of(compared, gallery=50), search_gallery(compared, 50), strict=True
    ):
        distance = -searches.best
        setting = distance[~searches.rates]
        assert len(np.unique(searches.person[~searches.rates])) in range(30, 51)
        assert (found.wanted, found.rule, found.images) == (0.1, "people", 50)
        # By hand: each person of the half that sets it counts once, by his nearest search; with
        # n people as many may be wrong as P(Binomial(n, 0.1) <= wrong) <= 0.05 allows.
        nearest = {}
        for person, value in zip(searches.person[~searches.rates], setting, strict=True):
            nearest[person] = min(value, nearest.get(person, np.inf))
        count, wrong = len(nearest), -1
        while (
            sum(math.comb(count, k) * 0.1**k * 0.9 ** (count - k) for k in range(wrong + 2)) <= 0.05
        ):
            wrong += 1
        assert wrong >= 0
        assert sum(value <= found.threshold for value in nearest.values()) == wrong
        judged = distance[searches.rates]
        assert found.fpir.value == (judged <= found.threshold).mean()
        hit = (-searches.own <= found.threshold) & (searches.own > searches.other)
        assert found.fnir.value == pytest.approx(1 - hit.mean())
        assert found.fnir.people == 40


def test_few_people_have_the_rate_on_average(tmp_path):
    some = compare_people(colour_run(tmp_path), coloured(40, each=3), progress=False)
    found = open_set_of(some, gallery=10)[0]
    assert (found.rule, found.wanted) == ("conformal", 0.1)
    few = compare_people(colour_run(tmp_path), coloured(18, each=3), progress=False)
    with pytest.raises(UsageError, match=r"an FPIR of 0.1 needs 9 people .* 8; .* --fpir 0.12"):
        open_set_of(few, gallery=6)
    with pytest.raises(UsageError, match=r"an FPIR of 0.01 needs 99 people"):
        open_set_of(some, gallery=10, fpir=0.01)
    with pytest.raises(UsageError, match=r"--gallery 99: a third of the 40 people .* 26 images"):
        open_set_of(some, gallery=99)


def test_an_index_without_items_is_refused(compared, tmp_path):
    index = index_of(tmp_path, coloured(2, each=1, seed=5), compared.run)
    empty = index.remove([f"p00{person}/{person}.png" for person in range(2)])
    with pytest.raises(UsageError, match="index has no items; embed a catalogue into it"):
        open_set_of(compared, index=empty)


def test_a_logit_has_a_threshold_from_below(tmp_path):
    some = compare_people(colour_run(tmp_path, ColourLogit()), coloured(40, each=3), progress=False)
    found = {one.searched: one for one in open_set_of(some, gallery=10)}
    value = math.sqrt(found["squared_euclidean"].threshold)
    assert found["compare"].threshold == pytest.approx(10 - value, abs=1e-3)
    assert found["compare"].fpir == found["squared_euclidean"].fpir


def index_of(folder, people, run, *, called=str):
    """An index of people's images as files, under other names."""
    for number, name in enumerate(people.images.identities):
        (folder / "images" / called(name)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(people.images.image(number)).save(
            folder / "images" / called(name) / f"{number}.png"
        )
    embedder = Embedder(network=run.network, variables=run.variables, size=run.size)
    source = str(folder / "images")
    made = embed_catalogue(open_catalogue(source), embedder, folder / "index", source=source)
    return made.index


def test_an_index_is_searched_for_people_who_are_not_in_it(compared, tmp_path):
    gallery = coloured(30, each=2, seed=5)
    index = index_of(tmp_path, gallery, compared.run, called=lambda name: f"member {name}")
    found = {one.searched: one for one in open_set_of(compared, index=index)}
    assert set(found) == {"squared_euclidean", "cosine"}
    one = found["squared_euclidean"]
    assert (one.images, one.index) == (60, str((tmp_path / "index").resolve()))
    # By hand: those who give the rates, against all 60 images.
    members = np.array([gallery.images.image(i)[0, 0] for i in range(60)], float)
    best, hits = [], []
    for person in np.flatnonzero(compared.rates):
        first, *others = np.flatnonzero(compared.person == person)
        for image in (first, *others):
            near = np.square(members - colour(compared, image)).sum(1).min()
            best.append(near)
            if image != first:
                own = np.square(colour(compared, first) - colour(compared, image)).sum()
                hits.append(own <= one.threshold and own < near)
    assert one.fpir.value == pytest.approx(np.mean(np.array(best) <= one.threshold))
    assert one.fnir.value == pytest.approx(1 - np.mean(hits))


def test_an_index_with_people_of_the_calibration_is_refused(compared, tmp_path):
    some = compared.people.take(np.flatnonzero(compared.person < 3))
    by_name = index_of(tmp_path / "a", some, compared.run)
    with pytest.raises(UsageError, match=r"index has people of colours \(p000, p001, p002\)"):
        open_set_of(compared, index=by_name)
    renamed = index_of(tmp_path / "b", some, compared.run, called=lambda name: f"member {name}")
    with pytest.raises(UsageError, match=r"index has people of colours \(0, 1, 2, "):
        open_set_of(compared, index=renamed)


def test_numbers_are_other_people_in_an_index(compared, tmp_path):
    members = coloured(12, each=1, seed=5)
    index = index_of(tmp_path, members, compared.run, called=lambda name: name[-2:])
    numbered = of_arrays(
        [compared.people.images.image(i) for i in range(360)],
        [name[-2:] for name in compared.people.images.identities],
        name="numbers",
    )
    people = People(images=numbered)
    some = compare_people(compared.run, people, progress=False)
    assert open_set_of(some, index=index)


def test_one_camera_s_images_do_not_count_as_found(tmp_path):
    """Of three images of each person the first two are by one camera."""
    people = coloured(120, each=3, spread=4.0)
    cameras = np.tile([1, 1, 2], 120)
    some = compare_people(
        colour_run(tmp_path), People(images=people.images, cameras=cameras), progress=False
    )
    every = compare_people(colour_run(tmp_path), people, progress=False)
    one, whole = (next(search_gallery(each, 40)) for each in (some, every))
    # 40 people are enrolled with their first image: of two searches for each one is left.
    assert (len(whole.mate), len(one.mate)) == (80, 40)
    np.testing.assert_array_equal(one.own, whole.own[1::2])
    np.testing.assert_array_equal(one.best, whole.best)
    index = index_of(tmp_path / "i", coloured(3, seed=5), some.run, called=lambda name: f"m{name}")
    found, full = (open_set_of(each, index=index)[0].fnir for each in (some, every))
    assert (full.comparisons, found.comparisons) == (120, 60)
