"""Options that cannot be, in every experiment and command; NumPy's values for Python's."""

import dataclasses
import importlib
import inspect
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.__main__ import COMMANDS, WEIGHTS, command
from siamjax.data import ReidOptions, RetrievalOptions, VerificationOptions
from siamjax.errors import UsageError
from siamjax.options import Bounds, Count, Options, Positive, Seed, Share, Source
from siamjax.training import RunConfig, initialize

EXPERIMENTS = sorted(
    path.stem
    for path in (Path(__file__).parent.parent / "experiments").glob("*.py")
    if path.stem != "__init__"
)
ODD = (
    *(math.nan, math.inf, -math.inf, -1, -0.5, 0, 0.5, 1e300, -1e300, 2**31, 2**32, 2**33, 2**64),
    *(10**400, -(10**5000), True, None, "", "x", "nan", "a\0b", b"x", (), [1, 2], {}, 1j, object()),
    *(np.float32("nan"), np.int64(-1), np.zeros(2), np.array("x"), np.array(None), jnp.zeros(0)),
)


def refusal(config, **options):
    """What a UsageError says; None if the options are taken. Any other exception is a failure."""
    try:
        config(**options)
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_odd_value_works_or_is_refused_by_name(name):
    config = importlib.import_module(f"experiments.{name}").Config
    needed = {"weights": "w.npz"} if name in ("faces_inception", "finetune_embedding") else {}
    refused = set()
    for field in dataclasses.fields(config):
        for value in ODD:
            said = refusal(config, **{**needed, field.name: value})
            if said is not None:
                assert said.startswith(field.name), (field.name, said)
                assert len(said.splitlines()) == 1
                refused.add(field.name)
    assert refused == {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_number_of_an_experiment_is_free(name):
    """Every number has bounds of its own; NaN, infinity and what lies below them are refused."""
    config = importlib.import_module(f"experiments.{name}").Config
    needed = {"weights": "w.npz"} if name in ("faces_inception", "finetune_embedding") else {}
    numbers = [
        field.name
        for field in dataclasses.fields(config)
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    ]
    assert {"seed", "batch_size", "steps", "evaluate_every", "log_every"} < set(numbers)
    for option in numbers:
        for value in (math.nan, math.inf, -math.inf, -1, -1e-9, 2**40 if option != "size" else -9):
            if isinstance(getattr(config(**needed), option), float) and value == 2**40:
                continue  # an odd rate, but a number
            with pytest.raises(UsageError, match=option):
                config(**needed, **{option: value})


def test_one_seed_is_not_another():
    """JAX drops all but 32 bits of a seed, so that 2^32 would give seed 0's parameters."""
    for options in (RunConfig, VerificationOptions, ReidOptions, RetrievalOptions):
        assert options(seed=2**32 - 1).seed == 2**32 - 1
        with pytest.raises(UsageError, match=r"seed 4294967296: must be at most 4294967295"):
            options(seed=2**32)


@dataclass(frozen=True, kw_only=True)
class Mine(Options):
    rate: Positive = 1.0
    count: Count = 3
    share: Share = 0.5
    seed: Seed = 0
    place: Path = Path("here")
    source: Source = "a set"
    word: str = "word"
    flag: bool = False
    head: Literal["one", "two"] = "one"
    depth: Literal[1, 2] = 1
    maybe: Annotated[float, Bounds(at_least=0, below=1)] | None = None
    side: int | tuple[int, int] = 8
    names: tuple[str, ...] = ()
    make: object = None
    number: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MineAgain(Mine):
    count: int = 7
    place: Path | None = None


def test_values_of_notebooks_are_as_good_as_pythons(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = MineAgain(
        rate=np.float32(0.001),
        count=np.uint8(5),
        share=jnp.float32(0.25),
        seed=np.int64(7),
        place="~/runs",
        source=Path("~/data"),
        word=Path("~/as it is"),
        flag=np.bool_(True),
        head=np.str_("two"),
        depth=np.int32(2),
        maybe=np.float64(0),
        side=[np.int64(4), 5],
        names=[np.str_("a"), Path("b")],
        make=len,
        number=Fraction(1, 4),
    )
    expected = {
        **{"rate": 0.001, "count": 5, "share": 0.25, "seed": 7, "place": Path("/home/me/runs")},
        **{"source": "/home/me/data", "word": "~/as it is", "flag": True, "head": "two"},
        **{"depth": 2, "maybe": 0.0, "side": (4, 5), "names": ("a", "b"), "make": len},
        **{"number": 0.25},
    }
    assert vars(options) == expected
    for name, value in expected.items():
        assert type(getattr(options, name)) is type(value), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0}, "rate 0.0: must be a number, finite .* above 0"),
        ({"rate": 1e-300}, "rate 1e-300: must be .* above 0"),  # 0 in float32
        ({"rate": 10**400}, "rate inf"),
        ({"rate": "0.1"}, "rate 0.1: must be a number"),
        ({"count": 0}, "count 0: must be at least 1"),
        ({"count": 4.0}, "count 4.0: must be a whole number"),
        ({"count": True}, "count True: must be a whole number"),
        ({"share": 1.1}, "share 1.1.* at most 1"),
        ({"maybe": 1.0}, "maybe 1.0.* below 1"),
        ({"number": math.inf}, "number inf"),
        ({"flag": 1}, "flag 1: must be True or False"),
        ({"head": "three"}, "head three: choose one of one, two"),
        ({"depth": True}, "depth True: choose one of 1, 2"),
        ({"place": 5}, "place 5: must be a path"),
        ({"place": "a\0b"}, r"place a\\x00b: a path cannot hold"),
        ({"source": None}, "source None: must be a text"),
        ({"names": "abc"}, "names abc: must be a list"),
        ({"side": (1, 2, 3)}, r"side \(1, 2, 3\): must be a list of 2"),
        ({"word": "x\ny", "head": "a\nb"}, r"head a\\nb"),
    ],
)
def test_refused(options, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        MineAgain(**options)


def test_another_default_keeps_the_bounds():
    with pytest.raises(UsageError, match="count 0: must be at least 1"):
        MineAgain(count=0)
    assert MineAgain(place=None).place is None


def test_a_home_that_nobody_knows(monkeypatch):
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(UsageError, match=r"place ~/x: no home folder is known; set HOME"):
        Mine(place="~/x")
    assert Mine(place="~nobody-of-that-name/x").place == Path("~nobody-of-that-name/x")


def test_types_that_only_a_function_knows():
    """As in a notebook's function under ``from __future__ import annotations``."""

    @dataclass(frozen=True, kw_only=True)
    class Local(Mine):
        here: "Unknown" = 3  # noqa: F821

    assert Local(here=-5).here == -5
    with pytest.raises(UsageError, match="rate"):
        Local(rate=-1)


@pytest.mark.parametrize("place", [*COMMANDS.values(), *WEIGHTS.values()])
def test_numbers_of_commands_have_bounds(place):
    called = command(place)
    for name, parameter in inspect.signature(called).parameters.items():
        if not isinstance(parameter.default, int) or isinstance(parameter.default, bool):
            continue
        others = {
            other: "x"
            for other, needed in inspect.signature(called).parameters.items()
            if needed.default is needed.empty and needed.kind is needed.KEYWORD_ONLY
        }
        lowest = -1 if name == "seed" else 0
        for value in (lowest, -1, 2**33, math.nan):
            with pytest.raises(UsageError, match=f"^{name}"):
                called(*_positional(called), **{**others, name: value})


def _positional(command):
    kinds = inspect.signature(command).parameters.values()
    return [["x"] if "list" in str(one.annotation) else "x" for one in kinds if one.kind == 0]


def test_a_network_is_not_initialized_from_a_seed_that_jax_would_cut():
    network = nn.Dense(2)
    values = {
        seed: initialize(network, 3, seed)[0]["params"]["kernel"].tolist()
        for seed in (0, np.int64(1), 2**31, 2**32 - 1)
    }
    assert len({str(value) for value in values.values()}) == 4
    for seed in (2**32, -1, 0.0, "0"):
        with pytest.raises(UsageError, match=r"^seed"):
            initialize(network, 3, seed)
