"""Who is trained on, who chooses the checkpoint and who is tested: from one word."""

from pathlib import Path
from typing import Any, Literal, cast

from siamjax.data.reid import cuhk01, grid, market1501, pedestrians
from siamjax.data.reid.cuhk03 import Boxes
from siamjax.data.reid.cuhk03.protocols import divide_classic, divide_new
from siamjax.data.reid.rankings import Ranking, ReidSplits
from siamjax.errors import UsageError

__all__ = ["NAMES", "Ranking", "ReidSplits", "load_splits"]

NAMES = ("pedestrians", "cuhk03/labeled", "cuhk03/detected", "cuhk01", "grid", "market1501")

Protocol = Literal["classic", "new"]
Disjoint = Literal["person", "tracklet"]


def load_splits(
    data: str,
    *,
    home: Path | None = None,
    seed: int = 0,
    split: int = 0,
    protocol: Protocol = "classic",
    test_people: int | None = None,
    validation_people: int | None = None,
    disjoint: Disjoint = "person",
) -> ReidSplits:
    """The splits of a set, by its published protocol.

    Validation never shows a test person, and pictures are trained on only if they are in
    ``training``. An option that the set has no use for raises ``UsageError``, so that no number
    is thought to depend on it.

    Args:
        data: one of :data:`NAMES`, or the path of a folder in Market-1501's naming.
        home: folder, archive or .mat file with the raw files; None looks into $SIAMJAX_REID,
            else into TFDS's manual folder. Nothing is downloaded.
        seed: draws what the protocol leaves open, at least who validates; 0 or greater.
        split: number of the official split, from 0: 20 of CUHK03's classic protocol, 10 of GRID.
        protocol: of CUHK03: ``classic`` (single-shot, 100 test people) or ``new`` (767/700).
        test_people: of CUHK01 (published are 100, the default, and 486) and the pedestrians
            (default 4).
        validation_people: taken out of the training people. Default: 100 of CUHK03 classic, none
            of the pedestrians (there held-out tracklets validate), else a tenth.
        disjoint: of the pedestrians: do ``person`` or only ``tracklet`` separate the splits?
    """
    request: dict[str, Any] = {
        "data": data,
        "home": None if home is None else str(home),
        "seed": seed,
        "split": split,
        "protocol": protocol,
        "test_people": test_people,
        "validation_people": validation_people,
        "disjoint": disjoint,
    }
    if data not in NAMES and not Path(data).is_dir():
        raise UsageError(
            f"{data}: neither a folder in Market-1501's naming nor one of {', '.join(NAMES)}"
        )
    if seed < 0:
        raise UsageError(f"seed {seed} must be 0 or greater")
    classic = data.startswith("cuhk03/") and protocol == "classic"
    _refuse(data, "split", split, 0, classic or data == "grid")
    _refuse(data, "protocol", protocol, "classic", data.startswith("cuhk03/"))
    _refuse(data, "test_people", test_people, None, data in ("cuhk01", "pedestrians"))
    _refuse(data, "disjoint", disjoint, "person", data == "pedestrians")
    _refuse(data, "home", home, None, data in NAMES and data != "pedestrians")
    if home is not None and not home.exists():
        # A prepared copy would hide the mistake.
        raise UsageError(f"{home}: no such folder or file; give the home of {data}, or none")
    if data == "pedestrians":
        return pedestrians.divide(
            seed=seed,
            disjoint=disjoint,
            test_people=test_people,
            validation_people=validation_people,
            request=request,
        )
    return _of_raw_files(
        data,
        home=home,
        seed=seed,
        split=split,
        classic=classic,
        test_people=test_people,
        validation_people=validation_people,
        request=request,
    )


def _of_raw_files(
    data: str,
    *,
    home: Path | None,
    seed: int,
    split: int,
    classic: bool,
    test_people: int | None,
    validation_people: int | None,
    request: dict[str, Any],
) -> ReidSplits:
    if data == "cuhk01":
        return cuhk01.divide(
            home=home,
            seed=seed,
            test_people=test_people,
            validation_people=validation_people,
            request=request,
        )
    if data == "grid":
        return grid.divide(
            home=home,
            seed=seed,
            split=split,
            validation_people=validation_people,
            request=request,
        )
    if not data.startswith("cuhk03/"):
        return market1501.divide(
            home=home,
            folder=None if data == "market1501" else Path(data),
            seed=seed,
            validation_people=validation_people,
            request=request,
        )
    boxes = cast(Boxes, data.partition("/")[2])
    if classic:
        return divide_classic(
            boxes=boxes,
            home=home,
            seed=seed,
            split=split,
            validation_people=validation_people,
            request=request,
        )
    return divide_new(
        boxes=boxes, home=home, seed=seed, validation_people=validation_people, request=request
    )


def _refuse(data: str, option: str, value: Any, default: Any, applies: bool) -> None:
    if value != default and not applies:
        raise UsageError(f"{option} {value} does not apply to {data}; leave it out")
