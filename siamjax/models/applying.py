"""Applying any network once it is trained, and what of its variables is its state."""

from collections.abc import Mapping
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
    ``UsageError`` if the variables lack something, instead of starting it anew.
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
    return output


def _paths(tree: Any) -> set[str]:
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path in paths}
