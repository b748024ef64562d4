"""Networks that are no linen modules, as linen modules: Flax NNX networks and plain functions."""

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

        Raises ``UsageError`` if ``make`` is an instance, and in training where the new statistics
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

        network = nnx.bridge.to_linen(self.make, name="network")
        called = nn.map_variables(
            call, True, _with_places, _with_texts, init=self.is_initializing(), mutable=True
        )
        return called(network, preprocess(x, self.preprocessing))

    embed = __call__  # as ``Embeds`` names it

    @staticmethod
    def variables_of(network: nnx.Module) -> dict[str, Any]:
        """Variables of an NNX network, such as a trained one."""
        found: dict[str, Any] = {}
        for path, one in nnx.to_flat_state(nnx.state(network, nnx.Not(nnx.RngState))):
            collection = nnx.variable_name_from_type(type(one))
            found["/".join((collection, "network", *map(str, path)))] = one.get_value()
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
        named = self.param("function", lambda key: _named(self.initial(key)))
        like = jax.eval_shape(self.initial, jax.random.key(0))
        leaves = flax.traverse_util.flatten_dict(named)
        params = jax.tree_util.tree_map_with_path(lambda path, _: leaves[_path(path)], like)
        return self.function(params, preprocess(x, self.preprocessing))

    embed = __call__  # as ``Embeds`` names it

    @staticmethod
    def variables_of(params: Any) -> dict[str, Any]:
        """Variables with these parameters, for :func:`siamjax.training.create_state`."""
        return {"params": {"function": _named(params)}}


def _named(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return flax.traverse_util.unflatten_dict({_path(p): jnp.asarray(leaf) for p, leaf in leaves})


def _path(path: Any) -> tuple[str, ...]:
    return tuple((jax.tree_util.keystr(path, simple=True, separator="/") or "value").split("/"))
