"""The command that calibrates: at which value may one say "same", and how sure is that?"""

from pathlib import Path

from siamjax.commands.arguments import Strict, Trust, UsedRun
from siamjax.commands.output import Answer, answers, used
from siamjax.errors import UsageError, shown
from siamjax.options import Count, Rate, Seed, Source


@answers
def calibrate(
    *,
    run: UsedRun,
    data: Source | None = None,
    fmr: Rate | None = None,
    gallery: Count | None = None,
    index: Path | None = None,
    fpir: Rate | None = None,
    seed: Seed = 0,
    limit: Count | None = None,
    allow_overlap: bool = False,
    strict: Strict = False,
    trust: Trust = (),
) -> Answer:
    """Set thresholds on people whom a run has never seen, and measure them on others.

    Half of the people set the threshold, the other half give the rates. Both are written into the
    run's folder, calibration.json and calibration.html; verify, search and rank then use them.

    Args:
        data: Folder with a sub-folder for each person, list file of lines 'path1 path2 label',
            table, or name of a data set; None: the run's own test people.
        fmr: Wanted false match rate; None: the smallest of 0.1, 0.01, 0.001 that so many people
            support.
        gallery: Also set thresholds for searches of a gallery of so many images.
        index: Also set thresholds for searches of this index.
        fpir: Wanted share of searches that find someone although nobody is there; None: 0.01 or
            0.1, as so many people support.
        seed: Of the division of the people.
        limit: Most images to compare; None: 2,000, or 200 for a network that compares maps.
        allow_overlap: Calibrate on people whom the run was trained on, for numbers that are too
            good.
    """
    import msgspec

    from siamjax.data.people import open_people, people_of
    from siamjax.files import locked, saying
    from siamjax.inference.calibrating import calibrate as calibrate_pairs
    from siamjax.inference.calibration import fingerprint
    from siamjax.inference.evaluation import own_splits
    from siamjax.inference.halves import compare_people
    from siamjax.inference.unseen import check_unseen
    from siamjax.report.calibration import PAGE, text_of, write_calibration
    from siamjax.search.index import Index
    from siamjax.search.unknowns import open_set_of
    from siamjax.training.finished import Finished

    if gallery is not None and index is not None:
        raise UsageError("--gallery and --index are two ways to say what is searched; give one")
    if fpir is not None and gallery is None and index is None:
        raise UsageError("--fpir is a rate of searches; give --gallery or --index too")
    finished = Finished.open(run, trust=trust)
    opened = None if index is None else Index.open(index)
    if opened is not None:
        opened.check(fingerprint(finished))  # now, and not after all is compared
    people = people_of(own_splits(finished)) if data is None else open_people(data, strict=strict)
    # Opened first, so that a folder that cannot be written is refused before anything is compared.
    remedy = "copy the weights into a folder that you may write, and give these"
    with saying(f"{shown(finished.kept)}: cannot be made", remedy=remedy):
        finished.kept.mkdir(exist_ok=True)
    with locked(finished.kept / "calibration.lock"):
        notes = check_unseen(finished, people, allow_overlap=allow_overlap)
        compared = compare_people(finished, people, seed=seed, limit=limit)
        found = calibrate_pairs(compared, fmr=fmr, notes=notes)
        if gallery is not None or opened is not None:
            found.open_set = open_set_of(compared, gallery=gallery, index=opened, fpir=fpir)
        found.keep_searches(finished)
        found.write(finished)
        heading = f"{run.absolute().name} calibrated on {found.data}"
        write_calibration(finished.kept / PAGE, found, compared, heading=heading)
    values = msgspec.to_builtins(found)
    then = ("verify", "a.jpg", "b.jpg", *used(finished))
    if index is not None:
        then = ("search", "query.jpg", "--index", index)
    return Answer(
        values={name: value for name, value in values.items() if name != "points"},
        text=[*text_of(found), f"page: {finished.kept / PAGE}"],
        then=then,
    )
