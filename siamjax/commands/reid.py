"""The command that ranks a folder of images by any network."""

from pathlib import Path

import tyro

from siamjax.commands.arguments import Strict, Trust, UsedRun
from siamjax.commands.matches import Matches
from siamjax.commands.output import Answer, answers, used
from siamjax.errors import shown
from siamjax.options import Count


@answers
def rank(
    queries: tyro.conf.Positional[list[Path]],
    /,
    *,
    gallery: Path,
    run: UsedRun,
    top: Count = 10,
    symmetric: bool = False,
    strict: Strict = False,
    out: Path | None = None,
    trust: Trust = (),
) -> Answer:
    """Rank a folder of images: by the network's own comparison, or by distances of embeddings.

    Args:
        queries: Images to search for.
        gallery: Folder of images; each query is compared with each of them.
        top: Number of images to show for each query.
        symmetric: Rank by the mean of both orders of a pair, of a network of logits; takes twice
            as long.
        out: HTML page to write, with the images.
    """
    from siamjax.inference.reid import rank_gallery
    from siamjax.report.results import Shown, check_page, write_results
    from siamjax.training.finished import Finished

    check_page(out)
    finished = Finished.open(run, trust=trust)
    ranked = rank_gallery(finished, queries, gallery, top=top, symmetric=symmetric, strict=strict)
    images, text, lists, listed = ranked.images, [], [], []
    count = len(images) - len(queries)
    # The mean of both orders is another value than the one that was calibrated.
    matches = Matches.of(finished, None if symmetric else "compare", images=count)
    for row, query in enumerate(ranked.query):
        text.append(images.keys[query])
        pictured: list[Shown] = []
        found, lines = [], []
        for place, index in enumerate(ranked.found[row]):
            name, value = images.keys[index], float(ranked.value[row, place])
            match = matches.match(value)
            lines.append(f"{place + 1:4d}  {ranked.said(value)}  {name}")
            found.append({"image": name, "value": value, "match": match})
            if out is not None:
                pictured.append(Shown(images.image(index), name, ranked.said(value), match))
        text += matches.lines([one["value"] for one in found], lines, said=ranked.said)
        listed.append({"query": images.keys[query], "match": matches.any(found), "found": found})
        if out is not None:
            lists.append((Shown(images.image(query), images.keys[query]), pictured))
    text.append(matches.remark)
    if out is not None:
        remark = f"{count:,} images of {gallery}, ranked by {run}; {matches.remark}"
        write_results(out, title=f"{gallery} ranked", remark=remark, lists=lists)
        text.append(f"page: {shown(out)}")
    values = {
        "run": run,
        "gallery": gallery,
        "images": count,
        "measure": ranked.measure,
        **matches.values,
        "queries": listed,
        "page": out,
    }
    then = matches.then("rank", *queries, "--gallery", gallery, *used(finished), out=out)
    return Answer(values=values, text=text, then=then)
