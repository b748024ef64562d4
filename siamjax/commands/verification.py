"""Commands that use a run that verifies: is it the same person?"""

from pathlib import Path

import tyro


def verify(
    first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path], /, *, run: Path
) -> None:
    """Say whether two images show the same person.

    Args:
        first: an image.
        second: another image.
        run: folder of a finished run.
    """
    from siamjax.inference.verification import Verifier

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
    from siamjax.data.verification import evaluation_pairs, verification_splits
    from siamjax.inference.verification import Verifier
    from siamjax.report.page import text_table
    from siamjax.report.verification import result_table

    verifier = Verifier.open(run)
    if data is None:
        splits = verification_splits(**verifier.run.manifest["splits"])
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
    from siamjax.inference.verification import across_folds

    print(across_folds(runs))
