"""The command that ranks a folder of images by a cross-input network."""

from pathlib import Path

import tyro

from siamjax.commands.arguments import Strict, Trust
from siamjax.options import Count


def rank(
    queries: tyro.conf.Positional[list[Path]],
    /,
    *,
    gallery: Path,
    run: Path,
    top: Count = 10,
    symmetric: bool = False,
    strict: Strict = False,
    out: Path | None = None,
    trust: Trust = (),
) -> None:
    """Rank a folder of images by a cross-input network, such as that of reid_normxcorr.

    Args:
        queries: Images to search for.
        gallery: Folder of images; each query is compared with each of them.
        run: Folder of a finished run.
        top: Number of images to show for each query.
        symmetric: Rank by the mean of both orders of a pair; takes twice as long.
        out: HTML page to write, with the images.
    """
    from siamjax.inference.reid import rank_gallery
    from siamjax.report.results import Shown, check_page, write_results
    from siamjax.training.finished import Finished

    check_page(out)
    finished = Finished.open(run, trust=trust)
    ranked = rank_gallery(finished, queries, gallery, top=top, symmetric=symmetric, strict=strict)
    images, lists = ranked.images, []
    for query, found, probability in zip(
        ranked.query, ranked.found, ranked.probability, strict=True
    ):
        print(images.keys[query])
        shown: list[Shown] = []
        for place, (index, value) in enumerate(zip(found, probability, strict=True), start=1):
            name, said = images.keys[index], f"P(same) {value:.4f}"
            print(f"{place:4d}  {said}  {name}")
            if out is not None:
                shown.append(Shown(images.image(index), name, said))
        if out is not None:
            lists.append((Shown(images.image(query), images.keys[query]), shown))
    if out is not None:
        remark = f"{len(images) - len(queries):,} images of {gallery}, ranked by {run}"
        write_results(out, title=f"{gallery} ranked", remark=remark, lists=lists)
        print(f"page: {out}")
