"""Networks that are no linen modules, as linen modules: Flax NNX networks and plain functions."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from siamjax.errors import UsageError
from siamjax.models.preprocessing import preprocess
from siamjax.options import Preprocessing


class NnxNetwork(nn.Module):
    """A Flax NNX network, through Flax's own bridge (``flax.nnx.bridge.to_linen``).

    It is in NNX's training mode (``network.train()``) where ``train`` is true, otherwise in its
    evaluation mode (``network.eval()``); a ``__call__`` that takes ``train`` or ``weight`` gets
    them. The parameters are those of the NNX network below ``network``; the places in a list are
    texts ("0"), as files have them. Of random streams there are ``params`` and ``dropout``.

    Attributes:
        make: makes the NNX network when it is called with ``rngs``: its class, or a
            ``functools.partial`` of it with its other arguments; never an instance.
        preprocessing: what the network's images must go through.
    """

    make: Callable[..., nnx.Module]
    preprocessing: Preprocessing = "unit"

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embed images (uint8 0..255, or float in [0, 1]).

        Raises ``UsageError`` if ``make`` is an instance; if the variables are not those of the
        network that it makes, by their paths and shapes; and in training where the new statistics
        of a batch would be lost, as ``batch_stats`` are not among the ``mutable`` collections of
        ``apply``.
        """
        if isinstance(self.make, nnx.Module):
            raise UsageError(
                f"NnxNetwork: make is an instance of {type(self.make).__name__}; give the class, "
                "or a functools.partial of it with its arguments"
            )
        lost = self.has_variable("batch_stats", "network")
        if train and lost and not self.is_mutable_collection("batch_stats"):
            raise UsageError(
                f"{self.make} has batch_stats, and training would lose their updates; apply it "
                "with mutable=['batch_stats'], as siamjax.training.forward does"
            )

        def call(network: nn.Module, x: Array) -> Array:
            return network(x, train, weight, nnx_method=_called)

        given = None if self.is_initializing() else _shapes(nn.meta.unbox(self.variables))

        def make(*, rngs: nnx.Rngs) -> nnx.Module:
            network = self.make(rngs=rngs)
            made = _shapes(self.variables_of(network))
            if given is not None:  # what is missing, Flax's bridge would leave as it was drawn
                _agree(made, given)
            return network

        network = nnx.bridge.to_linen(make, name="network")
        called = nn.map_variables(
            call, True, _with_places, _with_texts, init=self.is_initializing(), mutable=True
        )
        return called(network, preprocess(x, self.preprocessing))

    embed = __call__  # as ``Embeds`` names it

    @staticmethod
    def variables_of(network: nnx.Module) -> dict[str, Any]:
        """Variables of an NNX network, such as a trained one.

        Raises ``UsageError`` for one that holds a tree of arrays: Flax's bridge drops its values.
        """
        found: dict[str, Any] = {}
        for path, one in nnx.to_flat_state(nnx.state(network, nnx.Not(nnx.RngState))):
            collection = nnx.variable_name_from_type(type(one), allow_register=True)
            name = "/".join((collection, "network", *map(str, path)))
            found[name] = one.get_value()
            if not jax.tree_util.all_leaves([found[name]]):
                raise UsageError(f"{name} holds a tree of arrays; make an nnx.Param of each")
        return flax.traverse_util.unflatten_dict(found, sep="/")


def _called(network: Any, x: Array, train: bool, weight: Array | None) -> Array:
    network.train() if train else network.eval()
    given = {"train": train, "weight": weight}
    takes = inspect.signature(network.__call__).parameters
    return network(x, **{name: value for name, value in given.items() if name in takes})


def _with_texts(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {str(name): _with_texts(one) for name, one in tree.items()}


def _with_places(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {int(n) if n.isdecimal() else n: _with_places(one) for n, one in tree.items()}


class FunctionNetwork(nn.Module):
    """A plain function ``(params, images) -> features``, from JAX alone or from another library.

    The parameters may be any tree of arrays (dicts, lists, named tuples); they are saved by their
    paths, below ``function``. The function must be pure, and the same in training as afterwards.
    Raises ``UsageError`` for variables of another tree than ``initial`` makes, by paths and shapes.

    Attributes:
        function: takes the parameters and float32 images (batch, height, width, 3).
        initial: ``key -> params``, parameters to begin with. It also says what tree they are, so
            it must work wherever the network is used, without files.
        preprocessing: what the network's images must go through.
    """

    function: Callable[[Any, Array], Array]
    initial: Callable[[Any], Any]
    preprocessing: Preprocessing = "unit"

    @nn.compact
    def __call__(
        self,
        x: UInt8[Array, "batch height width 3"],
        *,
        train: bool = False,
        weight: Float[Array, " batch"] | None = None,
    ) -> Float[Array, "batch features"]:
        """Embed images (uint8 0..255, or float in [0, 1])."""
        del train, weight
        like = jax.eval_shape(self.initial, jax.random.key(0))
        if not self.is_initializing():
            leaves = jax.tree_util.tree_leaves_with_path(like)
            paths = {"/".join(("params/function", *_path(path))): one.shape for path, one in leaves}
            _agree(paths, _shapes(self.variables))
        named = self.param("function", lambda key: _named(self.initial(key)))
        leaves = flax.traverse_util.flatten_dict(named)
        params = jax.tree_util.tree_map_with_path(lambda path, _: leaves[_path(path)], like)
        return self.function(params, preprocess(x, self.preprocessing))

    embed = __call__  # as ``Embeds`` names it

    @staticmethod
    def variables_of(params: Any) -> dict[str, Any]:
        """Variables with these parameters, for :func:`siamjax.training.create_state`."""
        return {"params": {"function": _named(params)}}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """By path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): jnp.shape(leaf) for path, leaf in leaves}


def _agree(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """``UsageError`` unless the variables are those of the network, with a path that is not."""
    kept = {path.partition("/")[0] for path in wanted} | {"params", "batch_stats"}
    for path in sorted(wanted.keys() | given.keys()):
        there, here = given.get(path, "missing"), wanted.get(path, "missing")
        if there != here and path.partition("/")[0] in kept:
            raise UsageError(
                f"the variables are not those of the network: {path} is {there} among them, and "
                f"{here} in the network as its code makes it"
            )


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {_path(path): jnp.asarray(leaf) for path, leaf in leaves}
    if len(named) < len(leaves):
        raise UsageError(
            "two parameters have the same path, such as a/b and b within a; rename one"
        )
    return flax.traverse_util.unflatten_dict(named)


def _path(path: Any) -> tuple[str, ...]:
    return tuple((jax.tree_util.keystr(path, simple=True, separator="/") or "value").split("/"))
