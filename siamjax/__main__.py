"""Use a trained run from the command line: ``python -m siamjax verify|evaluate|folds|rank``."""

from pathlib import Path

import tyro

from siamjax import cli


def verify(
    first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path], /, *, run: Path
) -> None:
    """Say whether two pictures show the same person.

    Args:
        first: a picture.
        second: another picture.
        run: folder of a finished run.
    """
    from siamjax.runs.verifier import Verifier

    verifier = Verifier.open(run)
    value, same = verifier.compare(first, second)
    print(f"{verifier.measure} {value:.4f}, threshold {verifier.threshold:.4f}: ", end="")
    print("same person" if same else "different people")


def evaluate(*, run: Path, data: str | None = None, limit: int = 1_000_000) -> None:
    """Evaluate a run on a data set or a pair list, with its own threshold.

    Args:
        run: folder of a finished run.
        data: orl_faces, lfw (View 2), lfw/ALIGNMENT, a folder of identity folders, or a list file
            'path1 path2 label'; None: the test pairs of the run itself.
        limit: of a set without a pair list at most this many pairs, drawn with seed 0.
    """
    from siamjax.data.faces import evaluation_pairs, load_splits
    from siamjax.report.page import result_table, text_table
    from siamjax.runs.verifier import Verifier

    verifier = Verifier.open(run)
    if data is None:
        splits = load_splits(**verifier.manifest["splits"])
        images, pairs = splits.images, splits.test
    else:
        images, pairs = evaluation_pairs(data, limit=limit)
    results, sentence = verifier.evaluate(images, pairs)
    print(f"{pairs.name} of {images.name} ({len(pairs):,} pairs); {sentence}")
    print(text_table(*result_table(results)))


def folds(runs: tyro.conf.Positional[list[Path]], /) -> None:
    """Mean, standard deviation and standard error over runs of one fold each (--lfw-fold).

    Args:
        runs: folders of finished runs of different folds.
    """
    from siamjax.runs.verifier import across_folds

    print(across_folds(runs))


def rank(
    queries: tyro.conf.Positional[list[Path]],
    /,
    *,
    gallery: Path,
    run: Path,
    top: int = 10,
    symmetric: bool = False,
    out: Path | None = None,
) -> None:
    """Rank a folder of pictures by a matching network (a run of reid_normxcorr).

    Args:
        queries: pictures to look for.
        gallery: folder of pictures; every one of them is compared with every query.
        run: folder of a finished run.
        top: how many to show for each query.
        symmetric: rank by the mean of both orders of a pair, at twice the time.
        out: HTML page to write, with pictures.
    """
    from siamjax.report.results import Shown, write_results
    from siamjax.runs.finished import Finished
    from siamjax.runs.matcher import rank_gallery

    ranked = rank_gallery(
        Finished.open(run, kind="matcher"), queries, gallery, top=top, symmetric=symmetric
    )
    images, lists = ranked.images, []
    for query, found, probability in zip(
        ranked.query, ranked.found, ranked.probability, strict=True
    ):
        print(images.keys[query])
        for place, (index, value) in enumerate(zip(found, probability, strict=True), start=1):
            print(f"{place:4d}  P(same) {value:.4f}  {images.keys[index]}")
        if out is not None:
            shown = [
                Shown(images.image(index), images.keys[index], f"P(same) {value:.4f}")
                for index, value in zip(found, probability, strict=True)
            ]
            lists.append((Shown(images.image(query), images.keys[query]), shown))
    if out is not None:
        remark = f"{len(images) - len(queries):,} pictures of {gallery}, ranked by {run}"
        write_results(out, title=f"{gallery} ranked", remark=remark, lists=lists)
        print(f"page: {out}")


def main() -> None:
    """Parse the command line and run the command."""
    commands = {"verify": verify, "evaluate": evaluate, "folds": folds, "rank": rank}
    cli.guard(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m siamjax", description=__doc__
        )
    )


if __name__ == "__main__":
    main()
