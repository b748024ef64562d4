"""The commands that verify and evaluate: do two images show the same, and how sure is that?"""

from pathlib import Path
from typing import Literal

import tyro

from siamjax.commands.arguments import Strict, Trust
from siamjax.commands.output import Answer, answers, calibrate
from siamjax.options import Count, Source


@answers
def verify(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    /,
    *,
    run: Path,
    trust: Trust = (),
) -> Answer:
    """Tell whether two images show the same person.

    Args:
        first: An image.
        second: Another image.
        run: Folder of a finished run.
    """
    from siamjax.inference.verification import Verifier

    verifier = Verifier.open(run, trust=trust)
    value, same = verifier.compare(first, second)
    values = {
        "run": run,
        "first": first,
        "second": second,
        "measure": verifier.measure,
        "value": value,
        "threshold": verifier.threshold,
        "same": same,
    }
    said = f"{verifier.measure} {value:.4f}, "
    if same is None:
        said += "no threshold: the calibrate command sets one"
    else:
        said += f"threshold {verifier.threshold:.4f}: "
        said += "same person" if same else "different people"
    return Answer(values=values, text=[said], then=calibrate(run))


@answers
def evaluate(
    *,
    run: Path,
    data: Source | None = None,
    task: Literal["verification", "reid", "retrieval"] | None = None,
    limit: Count = 100_000,
    strict: Strict = False,
    trust: Trust = (),
) -> Answer:
    """Evaluate a run on its own test data or any other, with 95 % intervals, beside raw pixels.

    Args:
        run: Folder of a finished run.
        data: Name of a data set, by its official protocol where it has one; a folder with a
            sub-folder for each person or item, or in Market-1501's naming; a table (.csv, .tsv) or
            a folder with one; or a list file of lines 'path1 path2 label'. None: the run's own
            test data.
        task: What to test where the data can be for several: are two images of the same
            (verification), who is it over cameras (reid), which item is it (retrieval).
        limit: Most pairs to take of a set without a list of pairs; drawn with seed 0.
    """
    from siamjax.inference.evaluation import evaluate_run
    from siamjax.report.tables import text_of
    from siamjax.training.finished import Finished

    finished = Finished.open(run, trust=trust)
    done = evaluate_run(finished, data, task=task, limit=limit, strict=strict)
    judged, test = done.judged, done.test
    values = {
        "run": run,
        "data": test.images.name,
        "task": test.task,
        "test": test.name,
        "protocol": test.protocol or None,
        "results": judged.results,
        "intervals": judged.intervals,
        "unknown": judged.unknown,
        "people": judged.people,
        "leaks": done.leaks,
        "contaminated": done.contaminated,
    }
    text = [f"{test.name}; {done.leaks}", text_of(judged, chosen=test.chosen)]
    return Answer(values=values, text=text, then=calibrate(run))


@answers
def folds(runs: tyro.conf.Positional[list[Path]], /) -> Answer:
    """Average the accuracy of runs of one fold each (--lfw-fold), with its standard error.

    Args:
        runs: Folders of finished runs of different folds.
    """
    from siamjax.inference.verification import across_folds

    said, values = across_folds(runs)
    return Answer(values=values, text=[said])
