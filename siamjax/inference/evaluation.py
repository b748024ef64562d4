"""Test any run on any data of a task that its network answers to."""

from dataclasses import dataclass

import numpy as np

from siamjax.data import retrieval, verification
from siamjax.data.reid import ReidOptions, ReidSplits, load_reid, load_reid_test
from siamjax.data.retrieval import RetrievalOptions, RetrievalSplits, load_retrieval
from siamjax.data.tasks import Task, tasks_of
from siamjax.data.verification import (
    VerificationOptions,
    VerificationSplits,
    load_verification,
)
from siamjax.errors import UsageError, shown
from siamjax.inference.judging import Judgement
from siamjax.inference.tested import NETWORK, RetrievalTest, Test, VerificationTest, as_test
from siamjax.models import comparing
from siamjax.options import asked_before
from siamjax.training.finished import Described, Finished
from siamjax.training.seen import Seen

_MEASURED: dict[str, Task] = {"auc": "verification", "rank1": "reid", "recall_at_1": "retrieval"}
"""The task that each of these measures is of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a test says of a run.

    Attributes:
        test: what was asked.
        judged: results and intervals of the network and of the baselines.
        threshold: of the network's accuracy, a distance or a logit; None: nothing is decided.
        leaks: a sentence on what training, or the choice of the checkpoint, has seen of it.
        contaminated: whether that is anything.
    """

    test: Test
    judged: Judgement
    threshold: float | None
    leaks: str
    contaminated: bool


def own_test(run: Described, *, strict: bool = False) -> Test:
    """The test of a run's own splits, made again from its manifest.

    Raises ``UsageError`` for a run that does not say its task, and for data that are gone.
    """
    splits = own_splits(run, strict=strict)
    symmetric = run.about.config.get("symmetric") is True
    return as_test(splits, splits.test, trials=run.about.trials, symmetric=symmetric)


def own_splits(
    run: Described, *, strict: bool = False
) -> VerificationSplits | ReidSplits | RetrievalSplits:
    """A run's own splits, made again from its manifest; errors as of :func:`own_test`."""
    task, where = task_of(run), shown(run.folder / "manifest.json")
    if run.folder.is_file():
        raise UsageError(f"{shown(run.folder)}: published weights have no test; give --data")
    if task is None:
        raise UsageError(
            f"{where} does not say the run's task, so that its test is not known; give --data"
        )
    if "data" not in run.about.splits:  # what is missing has a default, which may be another set
        raise UsageError(f"{where} does not say what the run was tested on; give --data")
    request = run.about.splits | ({"strict": True} if strict else {})
    try:
        if task == "verification":
            return load_verification(asked_before(VerificationOptions, request))
        if task == "reid":
            return load_reid(asked_before(ReidOptions, request))
        return load_retrieval(asked_before(RetrievalOptions, request))
    except UsageError as error:
        raise UsageError(f"the test that {where} names: {error}; or give --data") from None


def task_of(run: Described) -> Task | None:
    """The task of a run; of an earlier version's by the measures of its results; None: unknown."""
    if run.about.task:
        return next((task for task in _MEASURED.values() if task == run.about.task), None)
    results = run.manifest.get("results")
    network = results.get(NETWORK) if isinstance(results, dict) else None
    measures = network if isinstance(network, dict) else {}
    return next((task for measure, task in _MEASURED.items() if measure in measures), None)


def open_test(
    data: str,
    *,
    task: Task | None = None,
    prefer: Task | None = None,
    limit: int = 100_000,
    strict: bool = False,
) -> Test:
    """A set, a folder or a file as a test, by the official protocol where the set has one.

    ``task`` None: the one that the data was made for, or of a folder that was made for none the one
    that you ``prefer``, if it can be for it (:func:`siamjax.data.tasks.tasks_of`). ``limit`` is the
    most pairs to draw of a set without a list of pairs; ``strict``: what would be left out of a
    folder or a list is an error. Raises ``UsageError`` for data that cannot be opened, or cannot be
    for that task.
    """
    tasks = tasks_of(data, prefer=prefer)
    task = tasks[0] if task is None else task
    if task not in tasks:
        raise UsageError(f"{shown(data)} cannot be for {task}, only for {' or '.join(tasks)}")
    if task == "verification":
        images, pairs = verification.evaluation_pairs(data, limit=limit, strict=strict)
        return VerificationTest(images=images, pairs=pairs)
    if task == "reid":
        testing = load_reid_test(data, strict=strict)
        return as_test(testing, testing.test)
    images, asked = retrieval.evaluation_search(data, strict=strict)
    return RetrievalTest(images=images, asked=asked)


def evaluate_run(
    run: Finished,
    *,
    data: str | None = None,
    task: Task | None = None,
    limit: int = 100_000,
    strict: bool = False,
) -> Evaluation:
    """Test a run on ``data``, or on its own test split, beside pixels without training.

    Of a folder that can be for several tasks, ``task`` None takes the run's own if it is one of
    them. Raises ``UsageError`` as :func:`own_test` and :func:`open_test` do, and for a network that
    cannot answer.
    """
    if data is None:
        if task not in (None, task_of(run)):
            raise UsageError(f"task {task} applies to other data; give --data too")
        test = own_test(run, strict=strict)
    else:
        test = open_test(data, task=task, prefer=task_of(run), limit=limit, strict=strict)
    baselines = test.baselines()
    scores = {NETWORK: test.scores(run), **baselines}
    thresholds = test.thresholds(run, baselines)
    judged, at = test.judge(scores, thresholds=thresholds), thresholds.get(NETWORK)
    said, contaminated = leaks(run, test, content=data is not None)
    return Evaluation(
        test=test,
        judged=judged,
        threshold=at if at is None or comparing.rises(run.network) else -at,
        leaks=said,
        contaminated=contaminated,
    )


def leaks(run: Described, test: Test, *, content: bool) -> tuple[str, bool]:
    """A sentence on what training has seen of a test, and whether that is anything.

    People are compared by name; ``content`` compares the images too, which reads all of them. Those
    of a run that started from another are compared in any case: that one may have seen the test.
    """
    names = run.about.known_in(test.images.name, run.about.trained_on)
    content = content or "start_from" in run.about.config
    seen = Seen.read(run.folder) if content else None
    identities, said, found = test.images.identities[test.shown], [], False
    if names:
        known = np.zeros(len(test.images), bool)
        known[test.shown] = np.isin(identities, sorted(names))
        count = int(known[test.asked_for].any(axis=1).sum())
        said.append(
            f"{count:,} of {len(test.asked_for):,} {test.asks} show someone whose name is in the "
            "training set"
        )
        found = count > 0
    if seen is not None:
        digests = set(test.images.content(test.shown))
        trained, chose = (len(digests & set(one)) for one in (seen.trained, seen.chose))
        said.append(
            f"of {len(test.shown):,} images {trained:,} were trained on, and {chose:,} chose the "
            "checkpoint"
        )
        found = found or trained + chose > 0
    if not said:
        return "whom the network was trained on is not known: leaks cannot be checked", False
    return ("CONTAMINATED: " if found else "") + "; ".join(said), found
