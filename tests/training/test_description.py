"""Networks as JSON: what can be written down comes back, and what cannot is refused by name."""

import functools
import json
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.data import of_arrays
from siamjax.errors import UsageError
from siamjax.models import EuclideanHead, Siamese
from siamjax.training import Run, RunConfig
from siamjax.training.description import build_module, describe_module


class ResidualBlock(nn.Module):
    """As in Flax's imagenet example: layers and activation come from the network."""

    filters: int
    conv: Any
    norm: Any
    act: Callable
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = self.norm(scale_init=nn.initializers.zeros_init())(self.act(self.norm()(y)))
        if y.shape != x.shape:
            x = self.conv(self.filters, (1, 1), self.strides, name="projection")(x)
        return self.act(x + y)


class ResNet(nn.Module):
    """A short ResNet in the form of Flax's imagenet example."""

    stage_sizes: Sequence[int]
    block_cls: Any
    conv: Any = nn.Conv
    norm: Any = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)
    act: Callable = nn.relu
    filters: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        conv = partial(self.conv, use_bias=False, dtype=self.dtype)
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        for stage, blocks in enumerate(self.stage_sizes):
            for block in range(blocks):
                strides = (2, 2) if stage and not block else (1, 1)
                make = partial(self.block_cls, strides=strides)
                x = make(self.filters * 2**stage, conv=conv, norm=norm, act=self.act)(x)
        return x.mean(axis=(1, 2)).astype(jnp.float32)


class Holder(nn.Module):
    """A module of one field of any kind."""

    field: Any = None


class Part(nn.Module):
    """A module to be held."""

    width: int = 1
    inner: Any = None


def there_and_back(module, trust=()):
    """The module built again from a file's text, which says the same anew."""
    description = json.loads(json.dumps(describe_module(module), allow_nan=False))
    again = build_module(description, trust=trust)
    assert describe_module(again) == description
    return again


def scaled(x, *, by):
    return by * x


class Outer:
    """A class that holds a function."""

    @staticmethod
    def negated(x):
        return -x


def test_resnet_comes_back_as_the_same_function(rng):
    network = ResNet(
        stage_sizes=(1, 2),
        block_cls=ResidualBlock,
        conv=partial(nn.Conv, padding="CIRCULAR"),
        norm=partial(nn.BatchNorm, momentum=0.5),
        act=partial(nn.leaky_relu, negative_slope=0.3),
        filters=2,
        dtype=jnp.bfloat16,
    )
    again = there_and_back(Siamese(backbone=network, head=EuclideanHead())).backbone
    assert type(again) is ResNet
    assert again.stage_sizes == (1, 2)
    assert isinstance(again.stage_sizes, tuple)
    assert again.block_cls is ResidualBlock
    assert (again.conv.func, again.conv.keywords) == (nn.Conv, {"padding": "CIRCULAR"})
    assert (again.norm.func, again.norm.keywords) == (nn.BatchNorm, {"momentum": 0.5})
    assert (again.act.func, again.act.keywords) == (nn.leaky_relu, {"negative_slope": 0.3})
    assert again.dtype == jnp.bfloat16
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(network.init)(jax.random.key(0), x)

    @partial(jax.jit, static_argnums=0)
    def trained(module, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    (got, got_state), (expected, state) = trained(again, x), trained(network, x)
    np.testing.assert_array_equal(got, expected)
    jax.tree.map(np.testing.assert_array_equal, got_state, state)
    other, _ = trained(network.clone(act=nn.relu), x)
    assert not np.array_equal(other, expected)


def kind(value):
    """A test's name that is the same in every process: no addresses."""
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "a word",
        (1, 2.5, "x", None),
        [1, [2, (3,)]],
        (),
        [],
        {},
        {"a": (1, 2), "dtype": {"b": [None]}, "class": 1, "import": "x"},
        (Part(width=2), Part(inner=(Part(width=3), {"deep": Part(width=4)}))),
        {"one": [Part(width=5)]},
        Part,
        (Part, ResidualBlock),
        nn.gelu,
        scaled,
        Outer.negated,
        float("inf"),
        partial(scaled, by=float("-inf")).keywords,
        np.float32,
        jnp.float32,
        jnp.bfloat16,
        np.dtype("int8"),
    ],
    ids=kind,
)
def test_a_field_comes_back(value):
    got = there_and_back(Holder(field=value)).field
    assert got == Holder(field=value).field  # Flax freezes dicts and lists
    assert type(got) is type(Holder(field=value).field) or isinstance(got, np.dtype)


def test_numbers_of_numpy_are_numbers():
    got = there_and_back(Holder(field=(np.int64(3), np.float32(0.5), np.bool_(True)))).field
    assert got == (3, 0.5, True)
    assert [type(one) for one in got] == [int, float, bool]


def test_partial_of_partial_with_arguments_comes_back():
    inner = partial(functools.reduce, max)
    held = Holder(field=partial(inner, [1, 3, 2]))
    assert there_and_back(held, trust=("_functools", "builtins")).field() == 3
    got = there_and_back(Holder(field=partial(scaled, by=2.0))).field
    assert got(3.0) == 6.0
    got = there_and_back(Holder(field=partial(Part, inner=Part(width=7), width=2))).field
    assert got() == Part(width=2, inner=Part(width=7))


@pytest.mark.parametrize(
    ("function", "path"),
    [
        (nn.gelu, "jax.nn:gelu"),
        (nn.relu, "jax.nn:relu"),
        (jax.nn.sigmoid, "jax.nn:sigmoid"),
        (jnp.sin, "jax.numpy:sin"),
        (nn.max_pool, "flax.linen:max_pool"),
        (nn.initializers.ones, "flax.linen:ones"),
        (scaled, f"{__name__}:scaled"),
        (Outer.negated, f"{__name__}:Outer.negated"),
    ],
)
def test_functions_are_named_where_they_are_public(function, path):
    """A private module that defines them in one version of JAX may be gone in the next."""
    assert describe_module(Holder(field=function))["fields"]["field"] == {"import": path}


def test_dtypes_are_named():
    fields = describe_module(Holder(field=(jnp.bfloat16, np.float32, np.dtype("int8"))))["fields"]
    assert fields["field"] == {
        "tuple": [{"dtype": "bfloat16"}, {"dtype": "float32"}, {"dtype": "int8"}]
    }


def made_inside():
    class Inside(nn.Module):
        width: int = 1

    def inner(x):
        return x

    return Inside, inner


LOCAL_CLASS, LOCAL_FUNCTION = made_inside()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda x: x, r"<lambda> of \w+ cannot be imported by that name"),
        (LOCAL_FUNCTION, r"inner of \w+ cannot be imported by that name"),
        (LOCAL_CLASS, r"Inside of \w+ cannot be imported by that name"),
        (LOCAL_CLASS(), r"Inside of \w+ cannot be imported by that name"),
        (partial(LOCAL_FUNCTION, 1), r"inner of \w+ cannot be imported by that name"),
        (nn.initializers.normal(0.1), "cannot be imported by that name"),
        (np.zeros(3), "cannot be saved with a run"),
        (jnp.zeros(3), "cannot be saved with a run"),
        (np.zeros((), np.float32), "cannot be saved with a run"),
        (object(), "cannot be saved with a run"),
        (1j, "cannot be saved with a run"),
        ({1, 2}, "cannot be saved with a run"),
    ],
    ids=kind,
)
@pytest.mark.parametrize("place", ["itself", "tuple", "list", "dict", "partial", "module"])
def test_what_cannot_be_written_is_refused_and_named(value, message, place):
    held = {
        "itself": lambda: Holder(field=value),
        "tuple": lambda: Holder(field=(1, value)),
        "list": lambda: Holder(field=[1, value]),
        "dict": lambda: Holder(field={"a": value}),
        "partial": lambda: Holder(field=partial(scaled, by=value)),
        "module": lambda: Holder(field=(Part(inner=value),)),
    }[place]()
    # A class of its own that cannot be imported is named by itself, whatever holds it.
    owner = "Part.inner" if place == "module" else "Holder.field"
    named = "Inside" if isinstance(value, nn.Module) else owner
    with pytest.raises(UsageError, match=rf"^{named}\b.*{message}"):
        describe_module(held)


def test_a_class_s_own_default_need_not_be_written():
    """The initialisers of Flax's layers are functions made within functions."""
    layer = nn.Dense(3, use_bias=False)
    assert there_and_back(Holder(field=(layer,))).field == (layer,)
    with pytest.raises(UsageError, match=r"^Dense.kernel_init: .* cannot be imported"):
        describe_module(Holder(field=layer.clone(kernel_init=nn.initializers.normal(0.1))))


class Doubling(nn.Module):
    """Is another network each time that it is built."""

    width: int = 1

    def __post_init__(self):
        self.width = 2 * self.width
        super().__post_init__()


def test_a_network_that_is_another_when_built_again_is_refused_before_a_folder_is_made(tmp_path):
    splits = SimpleNamespace(
        images=of_arrays(np.zeros((2, 4, 4), np.uint8)), fingerprint=lambda: "abc"
    )
    config = RunConfig(run=tmp_path / "run")
    for network in (Doubling(width=3), Holder(field=(Doubling(width=3),))):
        with pytest.raises(UsageError, match=r"is another network when it is built again.*12.*6"):
            Run.open(config, network, splits, best="score")
    with pytest.raises(UsageError, match=r"^Holder.field: .*<lambda> of"):
        Run.open(config, Holder(field=lambda x: x), splits, best="score")
    assert not (tmp_path / "run").exists()
    assert Run.open(config, Holder(field=(Part(),)), splits, best="score").folder == config.run


def test_keys_of_a_dict_are_strings():
    with pytest.raises(UsageError, match=r"Holder.field: the keys of a dict must be strings"):
        describe_module(Holder(field={1: 2}))


@pytest.mark.parametrize("path", [f"{__name__}:gone", "no_such_module:f", f"{__name__}:Outer.gone"])
def test_a_function_that_is_gone(path):
    described = describe_module(Holder(field=scaled))
    described["fields"]["field"]["import"] = path
    with pytest.raises(UsageError, match=f"{path} cannot be imported"):
        build_module(described, trust=("no_such_module",))


def part(**fields):
    return {"class": f"{__name__}:Part", "fields": fields}


def deep(count):
    value = 1
    for _ in range(count):
        value = {"list": [value]}
    return value


ODD = [
    None,
    [],
    "x",
    5,
    {},
    {"class": 1, "fields": {}},
    {"class": "", "fields": {}},
    {"class": ".x:y", "fields": {}},
    {"class": "\ud800:x", "fields": {}},
    {"class": "a\0b:x", "fields": {}},
    {"class": "a" * 5000 + ":x", "fields": {}},
    {"class": "flax.linen:Dense"},
    {"class": "flax.linen:Dense", "fields": []},
    {"class": "flax.linen:Dense", "fields": {}},
    {"class": "flax.linen:relu", "fields": {}},
    part(name=5),
    part(parent={"class": "flax.linen:Module", "fields": {}}),
    part(width=[1]),
    part(width={}),
    part(width={"list": {}}),
    part(width={"tuple": 5}),
    part(width={"dict": [1]}),
    part(width={"class": 1}),
    part(width={"import": None}),
    part(width={"float": "1e400"}),
    part(width={"partial": 1, "arguments": [], "options": {}}),
    part(width={"partial": {"import": "jax.nn:relu"}}),
    part(width={"partial": {"import": "jax.nn:relu"}, "arguments": {}, "options": {}}),
    part(width={"partial": {"import": "jax.nn:relu"}, "arguments": [], "options": []}),
    part(width=deep(20_000)),
    *(part(width={"dtype": one}) for one in ({}, 5, None, "x", "object", "f4,f4", "S9999", "9f4")),
]


@pytest.mark.parametrize("description", ODD, ids=range(len(ODD)))
def test_a_description_of_another_form_is_one_line(description):
    with pytest.raises(UsageError, match=r"run's network|linen module") as error:
        build_module(description)
    assert "\n" not in str(error.value)


def test_a_field_that_is_gone_or_of_an_unknown_kind():
    described = describe_module(Part(width=2))
    described["fields"]["height"] = 3
    with pytest.raises(UsageError, match="Part has no field height any more"):
        build_module(described)
    described = describe_module(Holder(field=(1,)))
    described["fields"]["field"] = {"set": [1]}
    with pytest.raises(UsageError, match=r"unknown kind: \['set'\]"):
        build_module(described)
