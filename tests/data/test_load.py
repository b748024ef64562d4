"""An experiment's options are what its splits are asked for."""

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image
from splits import retrieval_splits, verification_splits

from siamjax.commands.retrieval import embed
from siamjax.data import (
    ReidOptions,
    RetrievalOptions,
    VerificationOptions,
    divide_people,
    load_reid,
    load_retrieval,
)
from siamjax.data.verification import evaluation_pairs
from siamjax.errors import UsageError
from siamjax.inference.reid import rank_gallery
from siamjax.options import asked_before, only, request_of

CHANGED = {
    VerificationOptions: {
        "seed": 3,
        "data": "lfw",
        "lfw_fold": 4,
        "validation_list": Path("v.txt"),
        "test_list": Path("t.txt"),
        "validation_people": 7,
        "test_people": 8,
        "strict": True,
    },
    ReidOptions: {
        "seed": 3,
        "data": "cuhk03/labeled",
        "home": Path("home"),
        "protocol": "new",
        "split": 2,
        "test_people": 5,
        "validation_people": 6,
        "disjoint": "tracklet",
        "strict": True,
    },
    RetrievalOptions: {
        "seed": 3,
        "data": "table.csv",
        "home": Path("home"),
        "triplets": Path("t.txt"),
        "first_row": 1,
        "test_items": 4,
        "validation_items": 5,
        "category": "kind",
        "strict": True,
    },
}


@pytest.mark.parametrize("options", CHANGED, ids=lambda options: options.__name__)
def test_options_out_of_a_config_that_has_more(options):
    """As every experiment's does; and there and back through a run's manifest."""
    changed = CHANGED[options]
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    assert changed.keys() == defaults.keys()
    assert all(value != defaults[name] for name, value in changed.items())

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(options):
        margin: float = 0.2

    chosen = only(options, Config(**changed))
    assert type(chosen) is options
    assert dataclasses.asdict(chosen) == changed
    sets = (changed["data"],)
    assert request_of(chosen, sets=())["data"] == str(Path(changed["data"]).absolute())
    written = json.loads(json.dumps(request_of(chosen, sets=sets)))
    again = asked_before(options, {**written, "positive_share": 0.5})
    assert request_of(again, sets=sets) == written
    # Paths are as right in another folder.
    assert {name: str(value) for name, value in written.items()} == {
        name: str(value.absolute() if isinstance(value, Path) else value)
        for name, value in changed.items()
    }


def test_a_set_that_was_divided_by_hand_is_divided_so_again(faces):
    by_hand = divide_people(faces, seed=3, validation_people=4, test_people=5)
    again = verification_splits(**by_hand.request)
    assert again.fingerprint() == by_hand.fingerprint()
    assert set(by_hand.request) <= {field.name for field in dataclasses.fields(VerificationOptions)}


def test_defaults_are_the_embedded_sets():
    catalogue = load_retrieval(RetrievalOptions(test_items=20, validation_items=10, seed=5))
    assert (catalogue.images.name, catalogue.request["seed"]) == ("emoji", 5)
    for part, items in ((catalogue.test, 20), (catalogue.validation, 10)):
        assert len(set(catalogue.images.identities[part.gallery].tolist())) >= items
    reid = load_reid(ReidOptions(test_people=3, seed=5))
    assert reid.images.name.startswith("pedestrians")
    assert (reid.request["test_people"], reid.request["seed"]) == (3, 5)


@pytest.fixture
def untidy(tmp_path):
    """A folder of six people with two images each, and a file that is no image."""
    for person in range(6):
        for number in range(2):
            path = tmp_path / "data" / f"p{person}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (person, number, 0)).save(path)
    (tmp_path / "data/p0/notes.txt").write_text("x")
    return tmp_path / "data"


def test_strict_reaches_every_reader_of_a_folder(untidy):
    held_out = {"validation_people": 2, "test_people": 2}
    items = {"validation_items": 2, "test_items": 2, "category": None}
    image = untidy / "p0/0.png"
    readers = {
        "verification": lambda strict: verification_splits(str(untidy), **held_out, **strict),
        "retrieval": lambda strict: retrieval_splits(str(untidy), **items, **strict),
        "evaluate": lambda strict: evaluation_pairs(str(untidy), limit=99, **strict),
        "embed": lambda strict: embed(str(untidy), run=untidy, out=untidy, **strict),
        "rank": lambda strict: rank_gallery(None, [image], untidy, **strict),
    }
    for name, read in readers.items():
        with pytest.raises(UsageError, match=r"12 images.*; 1 left out: not an image \(p0/notes"):
            read({"strict": True})
        if name in ("embed", "rank"):  # which then miss a run
            with pytest.raises((UsageError, AttributeError)) as error:
                read({})
            assert "left out" not in str(error.value)
        else:
            read({})
