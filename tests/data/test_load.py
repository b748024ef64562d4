"""An experiment's options are what its splits are asked for."""

import dataclasses
from pathlib import Path

import pytest

from siamjax.data import (
    ReidOptions,
    RetrievalOptions,
    VerificationOptions,
    load_reid,
    load_retrieval,
    load_verification,
    reid,
    retrieval,
    verification,
)

CHANGED = {
    VerificationOptions: {
        "seed": 3,
        "data": "lfw",
        "lfw_fold": 4,
        "validation_list": Path("v.txt"),
        "test_list": Path("t.txt"),
        "validation_people": 7,
        "test_people": 8,
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
    },
    RetrievalOptions: {
        "seed": 3,
        "data": "table.csv",
        "triplets": Path("t.txt"),
        "test_items": 4,
        "validation_items": 5,
        "category": "kind",
    },
}


@pytest.mark.parametrize(
    ("options", "load", "home", "function"),
    [
        (VerificationOptions, load_verification, verification, "verification_splits"),
        (ReidOptions, load_reid, reid, "reid_splits"),
        (RetrievalOptions, load_retrieval, retrieval, "retrieval_splits"),
    ],
)
def test_every_option_is_passed_on(monkeypatch, options, load, home, function):
    """Also those of a class that adds to them, as every experiment's does, and none of its own."""
    changed = CHANGED[options]
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    assert changed.keys() == defaults.keys()
    assert all(value != defaults[name] for name, value in changed.items())

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(options):
        margin: float = 0.2

    monkeypatch.setattr(home, function, lambda **asked: asked)
    expected = {name: value for name, value in changed.items() if name != "category"}
    assert load(Config(**changed)) == expected


def test_defaults_are_the_embedded_sets():
    catalogue = load_retrieval(RetrievalOptions(test_items=20, validation_items=10, seed=5))
    assert (catalogue.images.name, catalogue.request["seed"]) == ("emoji", 5)
    for part, items in ((catalogue.test, 20), (catalogue.validation, 10)):
        assert len(set(catalogue.images.identities[part.gallery].tolist())) >= items
    reid = load_reid(ReidOptions(test_people=3, seed=5))
    assert reid.images.name.startswith("pedestrians")
    assert (reid.request["test_people"], reid.request["seed"]) == (3, 5)
