"""The commands that embed a catalogue of images and search it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import arg

from siamjax import messages
from siamjax.commands.arguments import Strict, Trust, UsedRun
from siamjax.commands.matches import Matches
from siamjax.commands.output import Answer, answers
from siamjax.errors import UsageError, shown
from siamjax.options import Count, Source

if TYPE_CHECKING:
    import numpy as np

    from siamjax.data.images import ImageSet
    from siamjax.search.index import Index
    from siamjax.search.index_segment import Item

_LISTED = 20  # broken images to name on the terminal


@answers
def embed(
    catalogue: tyro.conf.Positional[Source],
    /,
    *,
    run: UsedRun,
    out: Path,
    dtype: Literal["float32", "float16"] | None = None,
    remove: tuple[str, ...] = (),
    remove_gone: bool = False,
    on_error: Literal["report", "stop"] = "report",
    batch_size: Count = 64,
    chunk: Count = 512,
    strict: Strict = False,
    trust: Trust = (),
) -> Answer:
    """Embed a catalogue's images into an index, or bring an index up to date with its catalogue.

    An interrupted command, run again, resumes after its last chunk; the index changes only when
    it is done. Items that are in the index are embedded again only if their images have changed.

    Args:
        catalogue: A folder of images, a folder with a table, a table (CSV, TSV), or the name of
            a data set, such as emoji.
        out: Folder of the index; made if it does not exist. NAME.lance is a LanceDB table instead,
            NAME.npy an array with a table of its rows beside it, for another search engine.
        dtype: Type of the embeddings in the index; None: float32, or that of an existing index.
        remove: Ids to remove from the index, and not to embed.
        remove_gone: Remove the items that the catalogue no longer has, or whose files are gone.
        on_error: If an image cannot be read, report it at the end (and in the index's
            failed.csv), with exit status 1, or stop at once.
        batch_size: Images to embed at a time, over all devices.
        chunk: Number of images after which progress is saved.
    """
    from siamjax.data.open_catalogue import NAMES, stream_catalogue
    from siamjax.inference.embedder import Embedder
    from siamjax.processes import exchange, on_first
    from siamjax.search.embed_catalogue import embed_catalogue
    from siamjax.search.failed import FAILED
    from siamjax.search.index import Index, listed
    from siamjax.search.vectors import unfinished, write_vectors
    from siamjax.training.finished import Finished

    array = out.suffix == ".npy"
    folder = on_first(lambda: str(unfinished(out))) if array else out
    opened = stream_catalogue(catalogue, strict=strict)
    finished = Finished.open(run, trust=trust)
    done = embed_catalogue(
        opened,
        Embedder(
            network=finished.network,
            variables=finished.variables,
            size=finished.size,
            batch_size=batch_size,
        ),
        Path(folder),
        # A data set takes precedence over a folder of its name, as where catalogues are opened.
        source=catalogue if catalogue in NAMES else str(Path(catalogue).resolve()),
        run=str(finished.folder.absolute()),
        dtype=dtype,
        without=remove,
        remove_gone=remove_gone,
        on_error=on_error,
        chunk=chunk,
    )
    values = {
        "index": out,
        "run": run,
        "items": len(done.index),
        "features": done.index.features,
        "dtype": done.index.dtype,
        "added": done.added,
        "present": done.present,
        "removed": done.removed,
        "changed": done.changed,
        "gone": done.gone,
        "failed": done.failed,
    }
    if isinstance(done.index, Index):
        _note_missing_checksums(done.index)
    text = []
    if remove or remove_gone:
        text.append(f"{done.removed:,} items removed")
    if done.changed:
        named = shown(listed(done.changed))
        text.append(
            f"{len(done.changed):,} items embedded again, as their images have changed: {named}"
        )
    if done.gone:
        text.append(
            f"{len(done.gone):,} items are gone from {shown(catalogue)} and still in the index "
            f"(--remove-gone takes them out): {shown(listed(done.gone))}"
        )
    again = f"{len(done.changed):,} embedded again, " if done.changed else ""
    text.append(
        f"{shown(out)}: {done.added:,} items added, {again}{done.present:,} were there before; "
        f"{values['items']:,} in all, {done.index.features} features of {done.index.dtype}"
    )
    text += map(shown, list(done.failed.values())[:_LISTED])
    if len(done.failed) > _LISTED:
        text.append(f"... and {len(done.failed) - _LISTED} more")
    failed, listing = "", out / FAILED
    if array:
        exchange(None)  # all have read the index, which is removed
        on_first(lambda: write_vectors(Index.open(Path(folder)), out))
        listing = out.with_suffix(".failed.csv")
    if done.failed:
        failed = (
            f"{len(done.failed):,} of {len(opened):,} images could not be read and are not in "
            f"the index; replace those listed in {listing} and embed again"
        )
    searched = not failed and out.suffix not in (".lance", ".npy")
    then = ("search", "query.jpg", "--index", out) if searched else ()
    return Answer(values=values, text=text, then=then, failed=failed)


@answers
def search(
    queries: tyro.conf.Positional[list[Path]],
    /,
    *,
    index: Path,
    run: Annotated[Path | None, arg(aliases=("--network",))] = None,
    top: Count = 10,
    metric: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
    where: tuple[str, ...] = (),
    approximate: bool = False,
    probes: Count = 32,
    measure_recall: bool = False,
    out: Path | None = None,
    trust: Trust = (),
) -> Answer:
    """Find the items of an index that are nearest to images.

    Args:
        queries: Images to search for.
        index: Folder that the embed command made.
        run: The run or the published weights that made the index; None: as the index says.
        top: Number of items to show for each query.
        metric: Distance between embeddings.
        where: Search only items with all of these attributes, each as name=value.
        approximate: Search by FAISS, which is faster in a large index and may miss items.
        probes: Number of lists that an approximate search looks into; more find more and take
            longer.
        measure_recall: Search exactly too, and print the share of the exact result that the
            approximate search found.
        out: HTML page to write, with the images.
    """
    from siamjax.data.images import decode, read_file
    from siamjax.report.results import Shown, check_page, write_results
    from siamjax.search.freshness import out_of_date
    from siamjax.search.index import Index
    from siamjax.search.query import search_index

    check_page(out)
    opened = Index.open(index)
    _note_missing_checksums(opened)
    answered = search_index(
        opened,
        queries,
        run=run,
        top=top,
        metric=metric,
        where=[_condition(one) for one in where],
        approximate=approximate,
        probes=probes,
        measure_recall=measure_recall,
        trust=trust,
    )
    text = []
    if answered.recall is not None:
        text.append(f"approximate search: {answered.recall:.4f} of the exact result found")
    among = f" of {' and '.join(where)}" if where else ""
    measure = "squared distance" if metric == "squared_euclidean" else "cosine distance"
    remark = shown(f"{int(answered.shown.sum()):,} items{among} in {index}, by {measure}")
    found = answered.found
    items, images, lists = opened.lookup(found.rows.ravel()), _Images(), []
    old = out_of_date(opened, items.values())
    if any(old):
        stale = f"the index is out of date: {old}"
        messages.warn(f"{stale}; run embed again{' with --remove-gone' if old.gone else ''}")
        remark = f"{remark}; {stale}"
    matches = Matches.of(
        answered.run, metric, images=int(answered.shown.sum()), index=opened.folder
    )
    remark = f"{remark}; {matches.remark}"
    words = dict.fromkeys(old.changed, "changed since") | dict.fromkeys(old.gone, "gone")
    text.append(remark)
    listed = []
    for query, rows, distances in zip(queries, found.rows, found.distances, strict=True):
        text.append(shown(query))
        pictured: list[Shown] = []
        near, lines = [], []
        for place, (row, distance) in enumerate(zip(rows, distances, strict=True), start=1):
            if row < 0:  # an approximate search may find fewer
                continue
            item, value = items[int(row)], f"{measure} {distance:.6g}"
            state = words.get(item.id)
            caption = _caption(item) + (f" ({state})" if state else "")
            match = matches.match(float(distance))
            lines.append(f"{place:4d}  {value}  {caption}")
            near.append(
                {
                    "id": item.id,
                    "distance": float(distance),
                    "match": match,
                    "image": item.image or None,
                    "attributes": item.attributes,
                    "state": state,
                }
            )
            if out is not None:
                pictured.append(Shown(images.of(item), caption, value, match))
        text += matches.lines(
            [one["distance"] for one in near], lines, said=lambda x: f"{measure} {x:.6g}"
        )
        listed.append({"query": query, "match": matches.any(near), "found": near})
        if out is not None:
            image = decode(read_file(query), name=str(query))
            lists.append((Shown(image, shown(query)), pictured))
    if out is not None:
        write_results(out, title=shown(f"{index} searched"), remark=remark, lists=lists)
        text.append(f"page: {shown(out)}")
    values = {
        "index": index,
        "items": int(answered.shown.sum()),
        "metric": metric,
        "recall": answered.recall,
        **matches.values,
        "queries": listed,
        "page": out,
    }
    then = matches.then("search", *queries, "--index", index, out=out)
    return Answer(values=values, text=text, then=then)


def _note_missing_checksums(index: "Index") -> None:
    if not index.checked:
        messages.note(
            f"note: parts of {shown(index.folder)} were embedded by an earlier version of siamjax "
            "and have no checksums: damage that keeps their size, and images that have changed "
            "since, are not found; embed the catalogue into a new folder to find them"
        )


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--where {text}: expected name=value, such as category=Objects")
    return name, value


def _caption(item: "Item") -> str:
    known = [f"{name} {value}" for name, value in item.attributes.items() if value]
    return shown(", ".join([item.id, *known]))


class _Images:
    """Images of items; where one is gone, a grey image instead and a printed line."""

    def __init__(self) -> None:
        self._catalogues: dict[str, tuple[dict[str, int], ImageSet]] = {}

    def of(self, item: "Item") -> "np.ndarray":
        import numpy as np

        from siamjax.data.images import decode, read_file

        try:
            if item.image:
                return decode(read_file(Path(item.image)), name=item.image)
            return self._from_catalogue(item)
        except UsageError as error:
            messages.warn(f"not on the page: {error}")
            return np.full((64, 64, 3), 200, np.uint8)

    def _from_catalogue(self, item: "Item") -> "np.ndarray":
        from siamjax.data.open_catalogue import open_catalogue

        if item.catalogue not in self._catalogues:
            opened = open_catalogue(item.catalogue, quiet=True).images
            places = {key: place for place, key in enumerate(opened.keys)}
            self._catalogues[item.catalogue] = places, opened
        places, images = self._catalogues[item.catalogue]
        if item.id not in places:
            raise UsageError(f"{item.id} is no longer in {item.catalogue}")
        return images.image(places[item.id])
