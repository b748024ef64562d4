"""Applying any network once it is trained, and what of its variables is its state."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from siamjax.errors import UsageError


def states(variables: Mapping[str, Any]) -> list[str]:
    """The collections that a network keeps from call to call: all but ``params`` and sown values.

    ``Module.sow`` collects values in a tuple, which would grow with every call if it were kept.
    """

    def sown(collection: Any) -> bool:
        nodes = jax.tree.leaves(collection, is_leaf=lambda node: isinstance(node, tuple))
        return any(isinstance(node, tuple) for node in nodes)

    return [name for name in variables if name != "params" and not sown(variables[name])]


def evaluate(
    network: nn.Module, variables: Mapping[str, Any], *inputs: Any, method: str | None = None
) -> Any:
    """``network.apply`` for what does not train; a change of the network's state is dropped.

    A layer may write to its state in evaluation too: a counter, a cache, spectral norms. Raises
    ``UsageError`` if the variables lack something, instead of starting it anew, and if the
    ``batch_stats`` depend on the inputs: then so does a result on the inputs beside its own.
    """
    names = states(variables)
    output, after = network.apply(variables, *inputs, method=method, mutable=names)
    before = {name: variables[name] for name in names}
    added = _paths(after) - _paths(before)
    if added:
        raise UsageError(
            f"{type(network).__name__} uses {', '.join(sorted(added))}, which its variables lack; "
            "give those of this network"
        )
    if not same_statistics(variables, after):  # or a layer such as nn.remat made them anew
        _check_statistics(network, variables, inputs, method)
    return output


def modules_within(thing: Any) -> Iterator[nn.Module]:
    """A network and the modules among its fields, also in tuples and lists, and theirs."""
    if isinstance(thing, (tuple, list)):
        for one in thing:
            yield from modules_within(one)
    elif isinstance(thing, nn.Module):
        yield thing
        for field in dataclasses.fields(thing):
            if field.name != "parent":
                yield from modules_within(getattr(thing, field.name))


def same_statistics(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a call of a network has left its ``batch_stats`` alone: they are the same arrays."""
    arrays = (jax.tree.leaves(one.get("batch_stats")) for one in (before, after))
    own, new = ([id(array) for array in one] for one in arrays)
    return own == new


def _check_statistics(
    network: nn.Module, variables: Mapping[str, Any], inputs: Any, method: str | None
) -> None:
    def statistics(*inputs: Any) -> Any:
        after = network.apply(variables, *inputs, method=method, mutable=["batch_stats"])[1]
        return after["batch_stats"]

    try:  # without computing: JAX knows what depends on what is mapped
        jax.eval_shape(
            jax.vmap(statistics, out_axes=None), *jax.tree.map(lambda x: x[None], inputs)
        )
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        raise UsageError(
            f"{type(network).__name__} normalises by the batch in evaluation too, so that an "
            "embedding depends on the images beside it; its batch normalisation must use the "
            "running statistics unless it is called with train=True"
        ) from None


def _paths(tree: Any) -> set[str]:
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}
