"""Lists with their order and colours worked out by hand; CMC curves."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError
from siamjax.report.figures import DIFFERENT, SAME
from siamjax.report.ranking_figures import cmc_curves, ranked_lists

# Image k is of the one colour k: what is drawn tells which it is.
QUERY = np.array([0, 1, 2, 3])
GALLERY = np.array([10, 11, 12, 13, 14])
SCORE = np.array(
    [
        [0.9, 0.8, 0.7, 0.6, 0.5],  # right: 12, 14. ranks 3, 5: AP (1/3 + 2/5) / 2 = 0.367
        [0.1, 0.2, 0.9, 0.4, 0.5],  # right: 12. rank 1: AP 1
        [0.5, 0.5, 0.9, 0.5, 0.1],  # right: 11; 12 is junk. ties with 10 and 13
        [0.9, 0.8, 0.7, 0.6, 0.1],  # right: 14. rank 5: AP 0.2
    ]
)
MATCH = np.array(
    [[0, 0, 1, 0, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], dtype=np.bool_
)
VALID = np.ones_like(MATCH)
VALID[2, 2] = False


def plain_images(*sizes):
    source = []
    for k in range(15):
        height, width = sizes[k % len(sizes)]
        content = io.BytesIO()
        Image.fromarray(np.full((height, width, 3), k, np.uint8)).save(content, "png")
        source.append(content.getvalue())
    return ImageSet(
        name="plain",
        credit="made here",
        keys=tuple(map(str, range(15))),
        identities=np.array(["?"] * 15),
        source=source,
    )


def lists(figure):
    """[(row's words, query, [(title, image, colour of the frame)])] as drawn."""
    rows = []
    for axes in figure.axes:
        if not axes.images:
            rows.append((axes.texts[0].get_text(), []))
        else:
            colors = {to_hex(edge.get_edgecolor()) for edge in axes.spines.values()}
            shown = int(axes.images[0].get_array()[0, 0, 0])
            rows[-1][1].append((axes.get_title(), shown, *colors))
    return [(words, first[1], found) for words, (first, *found) in rows]


def drawn(*, sizes=((16, 6),), **options):
    images = plain_images(*sizes)
    options = {"valid": VALID, "data": "plain test"} | options
    return ranked_lists(images, QUERY, GALLERY, SCORE, MATCH, **options)


def test_lists_by_hand():
    figure = drawn(top=3)
    rows = lists(figure)
    # Places of the first correct: 3, 1, 2 (behind 10, which ties and stands first), 5. The
    # hardest two of four: queries 3 and 0. Then by AP: query 1 (1), query 2 (a third of ranks
    # 1, 2, 3 each: (1 + 1/2 + 1/3) / 3 = 0.611).
    assert [query for _, query, _ in rows] == [3, 0, 1, 2]
    assert [words.splitlines() for words, _, _ in rows] == [
        ["hardest 1", "AP 0.200", "first correct:", "rank 5 of 5"],
        ["hardest 2", "AP 0.367", "first correct:", "rank 3 of 5"],
        ["typical 1", "AP 1.000", "first correct:", "rank 1 of 5"],
        ["typical 2", "AP 0.611", "first correct:", "rank 2 of 4"],
    ]
    assert rows[0][2] == [
        ("1 ✗ 0.900", 10, DIFFERENT),
        ("2 ✗ 0.800", 11, DIFFERENT),
        ("3 ✗ 0.700", 12, DIFFERENT),
        ("5 ✓ 0.100", 14, SAME),  # the first correct, behind the three
    ]
    assert rows[1][2][2] == ("3 ✓ 0.700", 12, SAME)
    assert [place[1] for place in rows[2][2]] == [12, 14, 13]
    assert rows[3][2] == [
        ("1 ✗ 0.500", 10, DIFFERENT),
        ("2 ✓ 0.500", 11, SAME),
        ("3 ✗ 0.500", 13, DIFFERENT),
    ]
    assert "plain test" in figure.get_suptitle()
    assert "in 1 of the 4 lists, keep the gallery's order" in figure.get_supxlabel()


def test_hardest_first_and_typical_evenly():
    """40 queries, right ones at rank 40, 1, 39, 2, ...: AP is 1 / rank."""
    ranks = np.stack([np.arange(40, 20, -1), np.arange(1, 21)], axis=1).ravel()
    match = ranks[:, None] == np.arange(1, 41)
    score = np.tile(-np.arange(40.0), (40, 1))
    query, gallery = np.zeros(40, int), np.arange(40) % 15
    figure = ranked_lists(
        plain_images((8, 8)), query, gallery, score, match, data="ranks", count=7, top=2
    )
    found = [words.splitlines() for words, _, _ in lists(figure)]
    # The worst three; of the other 37, ranks 1..37, the middles of four parts.
    expected = [40, 39, 38, 1 + 4, 1 + 13, 1 + 23, 1 + 32]
    assert [line[-1] for line in found] == [f"rank {rank} of 40" for rank in expected]
    titles = [f"hardest {n}" for n in (1, 2, 3)] + [f"typical {n}" for n in (1, 2, 3, 4)]
    assert [line[0] for line in found] == titles
    assert "Equal" not in figure.get_supxlabel()


def test_equally_hard_queries_stand_in_their_order():
    score, match = np.tile(-np.arange(3.0), (5, 1)), np.zeros((5, 3), np.bool_)
    match[[0, 2, 4], 1] = True
    match[1, 0] = True  # query 3 has no match: it cannot be ranked
    gallery = np.arange(10, 13)
    figure = ranked_lists(plain_images((8, 8)), np.arange(5), gallery, score, match, data="ties")
    assert [query for _, query, _ in lists(figure)] == [0, 2, 1, 4]
    figure = ranked_lists(
        plain_images((8, 8)), np.arange(5), gallery, score, match, data="ties", count=1
    )
    assert [words.split("\n")[0] for words, _, _ in lists(figure)] == ["typical 1"]


@pytest.mark.parametrize("sizes", [((160, 60),), ((60, 160), (900, 30), (7, 7)), ((500, 700),)])
def test_images_of_any_size(sizes):
    figure = drawn(sizes=sizes, top=2)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    assert [query for _, query, _ in lists(figure)] == [3, 0, 1, 2]
    assert max(max(axes.images[0].get_array().shape) for axes in figure.axes if axes.images) <= 320
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])


def test_cmc_curves():
    curves = {"network": np.linspace(0.5, 1, 50), "pixels": np.array([0.25, 0.5, 0.75])}
    figure = cmc_curves(curves, data="plain test")
    (axes,) = figure.axes
    assert "plain test" in axes.get_title()
    network, pixels = axes.get_lines()
    np.testing.assert_array_equal(network.get_xdata(), np.arange(1, 21))
    np.testing.assert_array_equal(network.get_ydata(), curves["network"][:20])
    np.testing.assert_array_equal(pixels.get_xdata(), [1, 2, 3])
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["network: rank-1 0.5000", "pixels: rank-1 0.2500"]
    assert axes.get_xticks().tolist() == [1, 5, 10, 15, 20]
    (axes,) = cmc_curves(curves, data="plain test", gallery=7).axes
    assert axes.get_lines()[0].get_xdata()[-1] == 7
    (axes,) = cmc_curves({"pixels": curves["pixels"]}, data="plain test").axes
    assert axes.get_xticks().tolist() == [1, 2, 3]


def test_many_curves_differ():
    (axes,) = cmc_curves({str(n): np.array([n / 10, 1]) for n in range(10)}, data="many").axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == 10


def test_mistakes_are_told():
    with pytest.raises(UsageError, match="count 0"):
        drawn(count=0)
    with pytest.raises(UsageError, match=r"score of shape \(4, 5\) for 3 queries"):
        ranked_lists(plain_images((8, 8)), QUERY[:3], GALLERY, SCORE, MATCH, data="")
    with pytest.raises(UsageError, match="none of the 4 queries"):
        drawn(valid=np.zeros_like(MATCH))
    with pytest.raises(UsageError, match="must be bool"):
        drawn(valid=VALID.astype(int))
    with pytest.raises(UsageError, match="CMC curve 'x'"):
        cmc_curves({"x": np.array([0.5, np.nan])}, data="")
    with pytest.raises(UsageError, match="0 curves"):
        cmc_curves({}, data="")
