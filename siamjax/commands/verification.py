"""The commands that verify and evaluate: do two images show the same, and how sure is that?"""

from pathlib import Path
from typing import Literal

import tyro

from siamjax.commands.arguments import Strict, Trust, UsedRun
from siamjax.commands.output import Answer, answers, calibrate, used
from siamjax.errors import UsageError, shown
from siamjax.options import Count, Rate, Source


@answers
def verify(
    first: tyro.conf.Positional[Path],
    second: tyro.conf.Positional[Path],
    /,
    *,
    run: UsedRun,
    prior: Rate | None = None,
    trust: Trust = (),
) -> Answer:
    """Tell whether two images show the same person, and once it is calibrated how sure that is.

    Args:
        first: An image.
        second: Another image.
        prior: Share of same pairs among all that will be compared, for the probability of "same";
            None: no probability. Only a calibrated run has one.
    """
    import math
    import shlex

    from siamjax.inference.verification import Verifier

    verifier = Verifier.open(run, trust=trust)
    known = verifier.calibration
    if prior is not None and known is None:
        raise UsageError(
            f"{run} is not calibrated, so that --prior makes no probability; calibrate it first: "
            f"python -m siamjax {shlex.join(map(str, calibrate(verifier.run)))}"
        )
    value, same = verifier.compare(first, second)
    point = None if known is None else known.at(value)
    ratio = None if known is None else math.exp(known.ratio(value))
    chance = None if known is None or prior is None else known.posterior(value, prior=prior)
    values = {
        "run": run,
        "first": first,
        "second": second,
        "measure": verifier.measure,
        "value": value,
        "threshold": verifier.threshold,
        "same": same,
        "calibrated": known is not None,
        "wanted_fmr": None if known is None else known.wanted,
        "fmr": None if point is None else point.fmr,
        "fmr_interval": None if point is None else [point.low, point.high],
        "likelihood_ratio": ratio,
        "prior": prior,
        "p_same": chance,
    }
    said = f"{verifier.measure} {value:.4f}, "
    if same is None:
        said += "no threshold: the calibrate command sets one"
    else:
        said += f"threshold {verifier.threshold:.4f}: "
        said += "same person" if same else "different people"
    text = [said]
    if point is None:
        text.append("how often that is wrong is not known: the calibrate command measures it")
    else:
        text.append(
            f"false match rate at this {verifier.measure} {point}; likelihood ratio {ratio:.3g}"
        )
    if chance is not None:
        text.append(f"P(same) {chance:.4g} where {prior:g} of all compared pairs are the same")
    own = used(verifier.run)
    then = calibrate(verifier.run, then=("rank", first, "--gallery", "my_images/", *own))
    return Answer(values=values, text=text, then=then)


@answers
def evaluate(
    *,
    run: UsedRun,
    data: Source | None = None,
    task: Literal["verification", "reid", "retrieval"] | None = None,
    limit: Count = 100_000,
    strict: Strict = False,
    trust: Trust = (),
) -> Answer:
    """Evaluate a run on its own test data or any other, with 95 % intervals, beside raw pixels.

    Args:
        data: Name of a data set, by its official protocol where it has one; a folder with a
            sub-folder for each person or item, or in Market-1501's naming; a table (.csv, .tsv) or
            a folder with one; or a list file of lines 'path1 path2 label'. None: the run's own
            test data.
        task: What to test where the data can be for several: are two images of the same
            (verification), who is it over cameras (reid), which item is it (retrieval).
        limit: Most pairs to take of a set without a list of pairs; drawn with seed 0.
    """
    from siamjax.inference.calibration import Calibration
    from siamjax.inference.evaluation import evaluate_run
    from siamjax.report.tables import text_of
    from siamjax.training.finished import Finished

    finished = Finished.open(run, trust=trust)
    done = evaluate_run(finished, data=data, task=task, limit=limit, strict=strict)
    judged, test = done.judged, done.test
    values = {
        "run": run,
        "data": test.images.name,
        "task": test.task,
        "test": test.name,
        "protocol": test.protocol or None,
        "results": judged.results,
        "intervals": judged.intervals,
        "threshold": done.threshold,
        "unknown": judged.unknown,
        "people": judged.people,
        "leaks": done.leaks,
        "contaminated": done.contaminated,
    }
    text = [test.protocol] if test.protocol else []
    text += [f"{test.name}; {done.leaks}", text_of(judged, chosen=test.chosen)]
    if done.threshold is not None:
        known = Calibration.read(finished)
        calibrated = known is not None and known.threshold == done.threshold
        origin = f", calibrated on {known.data}" if known is not None and calibrated else ""
        text.append(shown(f"The network's threshold is {done.threshold:.4f}{origin}."))
    then = calibrate(finished, then=("verify", "a.jpg", "b.jpg", *used(finished)))
    return Answer(values=values, text=text, then=then)


@answers
def folds(runs: tyro.conf.Positional[list[Path]], /) -> Answer:
    """Average the accuracy of runs of one fold each (--lfw-fold), with its standard error.

    Args:
        runs: Folders of finished runs of different folds.
    """
    from siamjax.inference.verification import across_folds

    said, values = across_folds(runs)
    return Answer(values=values, text=[said])
