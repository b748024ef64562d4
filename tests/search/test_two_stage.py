import importlib

import numpy as np
import oracles
import pytest
from stand_in import SIZE, CrossInput, noise_images, variables_of

from siamjax.errors import UsageError
from siamjax.inference import score_pairs
from siamjax.metrics import reid
from siamjax.search import two_stage

MODULE = importlib.import_module("siamjax.search.two_stage")  # the name is the function's too
NETWORK = CrossInput()
QUERIES, GALLERY = np.asarray([4, 0, 7]), np.asarray([5, 3, 9, 1, 8, 2, 11])


@pytest.fixture(scope="module")
def variables():
    return variables_of(NETWORK)


@pytest.fixture(scope="module")
def images():
    return noise_images(12)[0]


@pytest.fixture(scope="module")
def embeddings():
    # Whole numbers: the distances are exact, and some are equal.
    rng = np.random.default_rng(3)
    return [rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (3, 7)]


def rank(variables, images, embeddings, **options):
    options = {"size": SIZE, "progress": False, "top": 3, **options}
    return two_stage(
        NETWORK,
        variables,
        images,
        QUERIES,
        GALLERY,
        query_embeddings=embeddings[0],
        gallery_embeddings=embeddings[1],
        **options,
    )


@pytest.mark.parametrize("block", [2, 128])
def test_network_ranks_the_nearest_and_the_embedding_all_others(
    variables, images, embeddings, block, monkeypatch
):
    monkeypatch.setattr(MODULE, "_BLOCK", block)
    scores = rank(variables, images, embeddings, tile=(2, 2))
    logits = score_pairs(NETWORK, variables, images, QUERIES, GALLERY, size=SIZE, progress=False)
    tied = 0
    for row in range(3):
        distance = np.square(embeddings[0][row] - embeddings[1]).sum(axis=1)
        order = sorted(range(7), key=lambda place: (distance[place], place))
        top, others = order[:3], order[3:]
        np.testing.assert_allclose(scores[row, top], logits[row, top], atol=2e-6)
        worst = scores[row, top].min()
        nearer = [(distance[others] < distance[place]).sum() for place in others]
        np.testing.assert_allclose(scores[row, others], worst - 1 - np.asarray(nearer), atol=1e-6)
        tied += len(set(nearer)) < 4
    assert tied


def test_top_decides_how_many_the_network_scores(variables, images, embeddings):
    logits = score_pairs(NETWORK, variables, images, QUERIES, GALLERY, size=SIZE, progress=False)
    for top in (7, 100):
        scores = rank(variables, images, embeddings, top=top)
        np.testing.assert_allclose(scores, logits, atol=2e-6)
    first = rank(variables, images, embeddings, top=1)
    assert (
        first.argmax(axis=1)
        == [np.square(row - embeddings[1]).sum(axis=1).argmin() for row in embeddings[0]]
    ).all()


def test_result_is_what_the_metrics_take(variables, images, embeddings):
    scores = rank(variables, images, embeddings)
    match = np.zeros((3, 7), bool)
    match[np.arange(3), scores.argmin(axis=1)] = True
    curve = reid.cmc(scores, match).curve
    assert curve[2] == 0  # the three that the network scored come first
    assert curve[6] == 1


def test_file_has_the_networks_logits(variables, images, embeddings, tmp_path):
    output = tmp_path / "top.npy"
    scores = rank(variables, images, embeddings, output=output)
    written = np.load(output)
    assert written.shape == (3, 3)
    np.testing.assert_array_equal(np.sort(scores, axis=1)[:, -3:], np.sort(written, axis=1))
    np.testing.assert_array_equal(rank(variables, images, embeddings, output=output), scores)
    moved = [embeddings[0][::-1], embeddings[1]]
    with pytest.raises(UsageError, match="something else: gallery is 3 x 3"):
        rank(variables, images, moved, output=output)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda q, g: [q[:2], g],
            r"query_embeddings of shape \(2, 4\) for indices of shape \(3,\)",
        ),
        (lambda q, g: [q, g[0]], "gallery_embeddings of shape"),
        (lambda q, g: [q, g[:, :3]], "4 and 3 features"),
        (
            lambda q, g: [q, np.where(np.arange(7)[:, None] == 5, np.nan, g)],
            r"gallery_embeddings: 4 of 28 .* at \(5, 0\)",
        ),
    ],
)
def test_refuses_embeddings(variables, images, embeddings, change, message):
    with pytest.raises(UsageError, match=message):
        rank(variables, images, change(*embeddings))


def test_refuses_a_top_of_nothing(variables, images, embeddings):
    with pytest.raises(UsageError, match="top 0"):
        rank(variables, images, embeddings, top=0)


@pytest.mark.parametrize("offset", [0.0, 3e4])
@pytest.mark.parametrize("scale", [1e-28, 1.0, 1e28])
def test_the_nearest_are_those_of_float64_differences(variables, images, offset, scale):
    rng = np.random.default_rng(1)
    rows = [((rng.normal(size=(n, 4)) + offset) * scale).astype(np.float32) for n in (3, 7)]
    rows[1][5] = rows[1][2]  # equal embeddings
    scores = rank(variables, images, rows, top=1)
    right = oracles.squared_distances(*rows)
    for score, distance in zip(scores, right, strict=True):
        first = int(distance.argmin())
        others = np.delete(np.arange(7), first)
        assert score.argmax() == first
        steps = [-1 - (distance[others] < distance[place]).sum() for place in others]
        np.testing.assert_allclose(score[others] - score[first], steps, atol=1e-5)
    assert (scores[:, 5] == scores[:, 2]).all() or first in (2, 5)
