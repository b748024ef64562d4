"""An experiment's options are what its splits are asked for."""

import dataclasses
import json
from pathlib import Path

import pytest

from siamjax.data import (
    ReidOptions,
    RetrievalOptions,
    VerificationOptions,
    load_reid,
    load_retrieval,
)
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
    written = json.loads(json.dumps(request_of(chosen)))
    again = asked_before(options, {**written, "positive_share": 0.5})
    assert request_of(again) == written
    assert {name: str(value) for name, value in written.items()} == {
        name: str(value) for name, value in changed.items()
    }


def test_defaults_are_the_embedded_sets():
    catalogue = load_retrieval(RetrievalOptions(test_items=20, validation_items=10, seed=5))
    assert (catalogue.images.name, catalogue.request["seed"]) == ("emoji", 5)
    for part, items in ((catalogue.test, 20), (catalogue.validation, 10)):
        assert len(set(catalogue.images.identities[part.gallery].tolist())) >= items
    reid = load_reid(ReidOptions(test_people=3, seed=5))
    assert reid.images.name.startswith("pedestrians")
    assert (reid.request["test_people"], reid.request["seed"]) == (3, 5)
