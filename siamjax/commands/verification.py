"""The commands that verify: do two images show the same person?"""

from pathlib import Path

import tyro

from siamjax.commands.arguments import Strict, Trust
from siamjax.commands.output import Answer, answers
from siamjax.errors import UsageError, shown
from siamjax.options import Count, Source


def verify(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    /,
    *,
    run: Path,
    trust: Trust = (),
) -> None:
    """Tell whether two images show the same person.

    Args:
        first: An image.
        second: Another image.
        run: Folder of a finished run.
    """
    from siamjax.inference.verification import Verifier

    verifier = Verifier.open(run, trust=trust)
    value, same = verifier.compare(first, second)
    print(f"{verifier.measure} {value:.4f}, threshold {verifier.threshold:.4f}: ", end="")
    print("same person" if same else "different people")


def evaluate(
    *,
    run: Path,
    data: Source | None = None,
    limit: Count = 1_000_000,
    strict: Strict = False,
    trust: Trust = (),
) -> None:
    """Evaluate a run on a data set or a list of pairs, with the run's threshold.

    Args:
        run: Folder of a finished run.
        data: Data set (orl_faces, lfw for View 2, lfw/ALIGNMENT), folder with a sub-folder for each
            person, or list file of lines 'path1 path2 label'; None: the run's own test pairs.
        limit: Most pairs to take of a set without a list of pairs; drawn with seed 0.
    """
    from siamjax.data.verification import (
        VerificationOptions,
        evaluation_pairs,
        load_verification,
    )
    from siamjax.inference.verification import Verifier
    from siamjax.options import asked_before
    from siamjax.report.tables import text_of

    verifier = Verifier.open(run, trust=trust)
    if data is None:
        try:
            request = verifier.run.about.splits | ({"strict": True} if strict else {})
            splits = load_verification(asked_before(VerificationOptions, request))
        except UsageError as error:
            where = shown(run / "manifest.json")
            raise UsageError(f"the pairs that {where} names: {error}; or give --data") from None
        images, pairs = splits.images, splits.test
    else:
        images, pairs = evaluation_pairs(data, limit=limit, strict=strict)
    judged, sentence = verifier.evaluate(images, pairs)
    print(f"{pairs.name} of {images.name} ({len(pairs):,} pairs); {sentence}")
    print(text_of(judged, chosen="auc"))


@answers
def folds(runs: tyro.conf.Positional[list[Path]], /) -> Answer:
    """Average the accuracy of runs of one fold each (--lfw-fold), with its standard error.

    Args:
        runs: Folders of finished runs of different folds.
    """
    from siamjax.inference.verification import across_folds

    said, values = across_folds(runs)
    return Answer(values=values, text=[said])
