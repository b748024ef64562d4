"""Figures of a ranking: whom a query found, as pictures, and CMC curves; each names its data.

Contract: ``score``, ``match`` and ``valid`` are (queries, gallery) as in
:mod:`siamjax.metrics.retrieval`. A list has to put equal scores in some order; here it is that of
the gallery, and the figure says so where it happened in what it shows.
"""

from collections.abc import Mapping
from itertools import cycle, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from siamjax.data.images import ImageSet
from siamjax.errors import UsageError
from siamjax.metrics.retrieval import Mask, Scores, Valid, average_precision
from siamjax.report.figures import DIFFERENT, NETWORK, PIXELS, SAME

_LONGEST = 320  # pixels of a picture's longer side that a cell of a list can show


class _Row(NamedTuple):
    query: int  # row of the score
    title: str
    precision: float
    order: np.ndarray  # columns of the score, best first, without junk
    first: int  # rank of the first right one, from 1


def ranked_lists(
    images: ImageSet,
    query: Int[np.ndarray, " queries"],
    gallery: Int[np.ndarray, " gallery"],
    score: Scores,
    match: Mask,
    *,
    data: str,
    valid: Valid = None,
    count: int = 6,
    top: int = 10,
) -> Figure:
    """Queries and the pictures that rank first for each: right ones framed green, wrong ones red.

    The first half of the rows are the hardest queries, those whose first right picture ranks
    worst; the others are typical: of the rest, ordered by average precision, those that divide it
    evenly. A first right picture further down is added at the end of its row. Junk is left out,
    and so are queries without a match, which cannot be ranked.

    Args:
        images: that ``query`` and ``gallery`` are indices into.
        query: pictures that ask.
        gallery: pictures that are ranked.
        score: rises with similarity.
        match: True = same identity.
        data: names the data set and what made the score.
        valid: False = junk for that query; None: there is none.
        count: number of queries.
        top: pictures shown of each list.
    """
    if count < 1 or top < 1:
        raise UsageError(f"count {count}, top {top}: at least 1 query and 1 picture are needed")
    score, match = np.asarray(score), np.asarray(match)
    if score.shape != (len(query), len(gallery)):
        raise UsageError(f"score {score.shape} for {len(query)} queries, {len(gallery)} pictures")
    precision = average_precision(score, match, valid=valid)  # checks shapes, masks and NaN too
    valid = np.broadcast_to(True, match.shape) if valid is None else np.asarray(valid)
    rows = _rows(score, match, valid, precision, count)
    further = any(row.first > top for row in rows)
    shown = min(top, max(row.order.size for row in rows))

    pictures = {
        index: _thumbnail(images.image(index))
        for index in {
            *(int(query[row.query]) for row in rows),
            *(
                int(gallery[k])
                for row in rows
                for k in (*row.order[:top], row.order[row.first - 1])
            ),
        }
    }
    slope = np.median([len(picture) / picture.shape[1] for picture in pictures.values()])
    cell = 0.8 * float(np.clip(slope, 0.6, 3.0)) + 0.35
    ratios = [1.7, 1.0, 0.15, *[1.0] * shown, *[0.25, 1.0] * further]
    figure = Figure(figsize=(0.92 * sum(ratios), cell * len(rows) + 0.7), layout="constrained")
    figure.suptitle(f"Ranked lists: {data}")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.04, wspace=0.0, hspace=0.0)
    grid = figure.add_gridspec(len(rows), len(ratios), width_ratios=ratios)
    for line, row in enumerate(rows):
        words = figure.add_subplot(grid[line, 0])
        words.set_axis_off()
        place = f"first right: rank {row.first}\nof {row.order.size}"
        text = f"{row.title}\nAP {row.precision:.3f}\n{place}"
        words.text(0, 0.5, text, va="center", fontsize=8.5)
        picture = pictures[int(query[row.query])]
        _show(figure.add_subplot(grid[line, 1]), picture, "query", "black")
