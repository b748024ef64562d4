"""Re-ranking by k-reciprocal neighbours: a gallery image counts as near if its neighbours agree.

Zhong, Zheng, Cao, Li, *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017.
No labels are used. Notation: queries and gallery are one set of images (as in the authors' code),
the queries first; d is the distance of two of them; N(p, k) are the k nearest images of p.

* R(p, k) = {g in N(p, k): p in N(g, k)} (equation 3);
* R*(p, k1) = R(p, k1) and every R(q, k1 / 2), q in R(p, k1), two thirds of which lie in it (4);
* V_p = exp(-d(p, g)) for g in R*(p, k1), else 0 (7); then the mean of V over N(p, k2) (11);
* Jaccard distance = 1 - sum of min(V_p, V_g) / sum of max(V_p, V_g) (10);
* result = (1 - weight) Jaccard + weight d (12).

Two things follow the authors' code and not the paper: d is divided by the greatest distance of p,
so that it is in [0, 1] in (7) and (12); V_p is divided by its sum before (11), so that the two sums
of (10) add up to 2. ``neighbours`` chooses between code and paper in the rest:

* ``"code"``: N(p, k) are p itself and k more (k1 + 1 and k1 / 2 + 1 images), and "two thirds" is
  more than 2/3;
* ``"paper"``: N(p, k) are k images, p among them, and "two thirds" is at least 2/3.

In both, N(p, k2) are k2 images with p, and k1 / 2 is rounded to even. p is its own nearest image,
at whatever distance. Images that tie for the last place of N(p, k) are all left out:
the order of the arrays never matters, and a constant distance stays constant.

Distances are computed block by block, twice. Only the result, k1 + 2 neighbours for each image and
the sparse V stay in memory.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from siamjax.errors import UsageError
from siamjax.exact_distances import RankedDistances, require_embeddings
from siamjax.options import plain

Rows = Callable[[int, int], Float[np.ndarray, "rows total"]]
Neighbours = Literal["code", "paper"]


def _rows(distance_rows: Rows, start: int, stop: int, total: int) -> np.ndarray:
    rows = np.array(distance_rows(start, stop), np.float64)  # a copy: it is written to
    if rows.shape != (stop - start, total):
        needed = (stop - start, total)
        raise UsageError(
            f"distances of images {start} to {stop - 1} have shape {rows.shape}, expected {needed}"
        )
    bad = ~((rows >= 0) & (rows < np.inf))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UsageError(
            f"the distance of images {start + row} and {column} is {rows[row, column]}; "
            f"{int(bad.sum())} of {bad.size} (images {start} to {stop - 1}) are so; give finite "
            "distances of at least 0 (1 - s for a score s in [0, 1])"
        )
    return rows


def _nearest(order: np.ndarray, distance: np.ndarray, k: int) -> csr_array:
    """N(p, k) of every image p as a row of ones; from more than k sorted neighbours of each."""
    inside = distance < distance[:, k : k + 1] if k < order.shape[1] else order >= 0
    ones, ends = np.ones(inside.sum(), np.int32), np.append(0, np.cumsum(inside.sum(axis=1)))
    return csr_array((ones, order[inside], ends), shape=(len(order), len(order)))


def _expanded(near: csr_array, half_near: csr_array, neighbours: Neighbours) -> csr_array:
    """R*(p, k1) of every image as a row of positive numbers, from N(., k1) and N(., k1 / 2)."""
    reciprocal = csr_array(near * near.T)
    half = csr_array(half_near * half_near.T)
    shared = csr_array((reciprocal @ half.T) * reciprocal)  # |R(p, k1) and R(q, k1 / 2)|
    excess = 3 * shared.data - 2 * half.sum(axis=1)[shared.indices]
    shared.data = (excess > 0 if neighbours == "code" else excess >= 0).astype(np.int32)
    expanded = csr_array(reciprocal + shared @ half)
    expanded.eliminate_zeros()
    return expanded


def k_reciprocal(
    distance_rows: Rows,
    *,
    queries: int,
    total: int,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    neighbours: Neighbours = "code",
    block: int = 512,
) -> Float[np.ndarray, "queries gallery"]:
    """The re-ranked distance of ``queries`` from the other ``total - queries`` images, float32.

    ``distance_rows(start, stop)`` gives the distances of images start..stop-1 from all ``total``
    images, the queries first: finite, >= 0, symmetric; squared Euclidean in the paper and its
    code. ``block`` is the number of rows computed at once; it changes the memory alone. The result
    is in [0, 1] and cannot be compared between galleries. Raises ``UsageError`` naming a bad
    distance.
    """
    plain("neighbours", neighbours, Neighbours)
    if not 0 < queries < total:
        raise UsageError(f"{queries} queries among {total} images: give queries and a gallery")
    if min(k1, k2, block) < 1 or not 0 <= weight <= 1:
        options = f"k1 {k1}, k2 {k2}, block {block}"
        raise UsageError(f"{options} must be at least 1 and weight {weight} in [0, 1]")
    itself = 1 if neighbours == "code" else 0
    keep = min(max(k1 + itself, k2) + 1, total)  # one more shows ties for the last place
    order, distance = np.empty((total, keep), np.int32), np.empty((total, keep))
    greatest = np.empty((total, 1))
    spans = [(start, min(start + block, total)) for start in range(0, total, block)]
    for start, stop in spans:
        rows = _rows(distance_rows, start, stop, total)
        greatest[start:stop, 0] = rows.max(axis=1)
        rows[np.arange(stop - start), np.arange(start, stop)] = -1.0  # before all others
        found = np.argpartition(rows, keep - 1, axis=1)[:, :keep]
        values = np.take_along_axis(rows, found, axis=1)
        ascending = np.argsort(values, axis=1)
        order[start:stop] = np.take_along_axis(found, ascending, axis=1)
        distance[start:stop] = np.take_along_axis(values, ascending, axis=1)
    greatest[greatest == 0] = 1.0
    near = _nearest(order, distance, k1 + itself)
    half_near = _nearest(order, distance, round(k1 / 2) + itself)
    expanded = _expanded(near, half_near, neighbours)
    encoded = np.empty(expanded.nnz)
    final = np.empty((queries, total - queries), np.float32)
    for start, stop in spans:
        rows = _rows(distance_rows, start, stop, total) / greatest[start:stop]
        ends = expanded.indptr[start : stop + 1]
        row = np.repeat(np.arange(stop - start), np.diff(ends))
        entries = np.exp(-rows[row, expanded.indices[ends[0] : ends[-1]]])
        encoded[ends[0] : ends[-1]] = entries / np.bincount(row, entries)[row]
        final[start:stop] = weight * rows[: max(queries - start, 0), queries:]
    encodings = csr_array((encoded, expanded.indices, expanded.indptr), shape=expanded.shape)
    group = _nearest(order, distance, k2)
    encodings = csr_array((group @ encodings) / group.sum(axis=1)[:, None])
    inverted = csr_array(encodings[queries:].T)  # which gallery images have this entry
    for query in range(queries):
        span = slice(*encodings.indptr[query : query + 2])
        lists = inverted[encodings.indices[span]]
        own = np.repeat(encodings.data[span], np.diff(lists.indptr))
        smaller = np.bincount(lists.indices, np.minimum(lists.data, own), total - queries)
        final[query] += (1 - weight) * (1 - smaller / (2 - smaller))
    return final


def k_reciprocal_matrices(
    query_gallery: Float[np.ndarray, "queries gallery"],
    query_query: Float[np.ndarray, "queries queries"],
    gallery_gallery: Float[np.ndarray, "gallery gallery"],
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    neighbours: Neighbours = "code",
    block: int = 512,
) -> Float[np.ndarray, "queries gallery"]:
    """:func:`k_reciprocal` of given distances, used as they are: for cross-input networks."""
    query_gallery, query_query, gallery_gallery = (
        np.asarray(part) for part in (query_gallery, query_query, gallery_gallery)
    )
    if query_gallery.ndim != 2:
        raise UsageError(f"query_gallery of shape {query_gallery.shape}; give (queries, gallery)")
    queries, gallery = query_gallery.shape
    if query_query.shape != (queries, queries) or gallery_gallery.shape != (gallery, gallery):
        raise UsageError(
            f"query_query {query_query.shape} and gallery_gallery {gallery_gallery.shape} do not "
            f"fit query_gallery {query_gallery.shape}"
        )

    def distance_rows(start: int, stop: int) -> np.ndarray:
        query = slice(start, min(stop, queries))
        other = slice(max(start - queries, 0), max(stop - queries, 0))
        first = np.hstack([query_query[query], query_gallery[query]])
        return np.vstack([first, np.hstack([query_gallery[:, other].T, gallery_gallery[other]])])

    return k_reciprocal(
        distance_rows, queries=queries, total=queries + gallery,
        k1=k1, k2=k2, weight=weight, neighbours=neighbours, block=block,
    )  # fmt: skip


def k_reciprocal_embeddings(
    query_embeddings: Float[np.ndarray, "queries dim"],
    gallery_embeddings: Float[np.ndarray, "gallery dim"],
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    neighbours: Neighbours = "code",
    block: int = 512,
) -> Float[np.ndarray, "queries gallery"]:
    """:func:`k_reciprocal` of squared Euclidean distances of embeddings.

    They rank as float64 differences do, and equal embeddings tie
    (:class:`siamjax.exact_distances.RankedDistances`).
    """
    query, gallery = (
        require_embeddings(name, rows)
        for name, rows in (
            ("query_embeddings", query_embeddings),
            ("gallery_embeddings", gallery_embeddings),
        )
    )
    if query.shape[1] != gallery.shape[1]:
        raise UsageError(
            f"query_embeddings of {query.shape[1]} features, gallery_embeddings of "
            f"{gallery.shape[1]}: embed both by one network"
        )
    images = np.concatenate([query, gallery])
    ranked = RankedDistances(images)

    def distance_rows(start: int, stop: int) -> np.ndarray:
        return ranked(images[start:stop])

    return k_reciprocal(
        distance_rows, queries=len(query), total=len(images),
        k1=k1, k2=k2, weight=weight, neighbours=neighbours, block=block,
    )  # fmt: skip
