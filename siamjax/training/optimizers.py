"""What Optax lacks: rates by layer, layers that begin later, and Torch7's own SGD."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from siamjax.errors import UsageError

_FROZEN = "/frozen"  # no path begins so


def by_layer(
    optimizers: Mapping[Any, optax.GradientTransformation],
    *,
    default: optax.GradientTransformation,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Another optimizer for some layers, such as a smaller rate for those that were pretrained.

    ``optimizers`` by the beginning of a parameter's path, such as ``deep/block1``, or by a tuple
    of several for one optimizer; the longest that fits counts, and ``default`` where none does.
    Parameters that begin as one of ``frozen`` stay as they are, whatever else fits; their
    gradients are not even computed on one device.
    Raises ``UsageError`` at ``init`` for a beginning that no parameter has.
    """
    groups = {own if isinstance(own, tuple) else (own,): one for own, one in optimizers.items()}
    groups.pop((), None)  # none is left to train
    named: dict[Hashable, optax.GradientTransformation] = {
        **{own[0]: one for own, one in groups.items()},
        "": default,
        _FROZEN: optax.set_to_zero(),
    }
    group = {"": "", **{prefix: own[0] for own in groups for prefix in own}}

    def label(path: str) -> str:
        if path.startswith(tuple(frozen)):
            return _FROZEN
        return group[max(filter(path.startswith, group), key=len)]

    def labels(params: Any) -> Any:
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        for prefix in (*group, *frozen):
            if not any(path.startswith(prefix) for path in flat):
                layers = sorted({path.rsplit("/", 1)[0] for path in flat})
                raise UsageError(f"no layer begins with {prefix!r}; there are {', '.join(layers)}")
        chosen = {path: label(path) for path in flat}
        return flax.traverse_util.unflatten_dict(chosen, sep="/")

    return optax.partition(named, labels)


def from_step(optimizer: optax.GradientTransformation, step: int) -> optax.GradientTransformation:
    """Nothing before this step (the first is 0): what it is told of begins there, as if new."""
    if step == 0:
        return optimizer
    begin = step

    def begun(step: Any, **_: Any) -> Any:
        return step >= begin

    return optax.conditionally_mask(optimizer, begun)


class DampenedSgdState(NamedTuple):
    """Step and velocity of :func:`dampened_sgd`."""

    step: Int[Array, ""]
    velocity: Any


def dampened_sgd(
    learning_rate: float,
    *,
    momentum: float = 0.9,
    dampening: float | None = None,
    learning_rate_decay: float = 0.0,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Stochastic gradient descent as Torch7's ``optim.sgd`` does it.

    ``g += weight_decay * w`` (biases too); ``v = g`` at the first step and then ``momentum * v +
    (1 - dampening) * g``; ``w -= learning_rate / (1 + learning_rate_decay * step) * v``, the rate
    falling by *step*, not by epoch. Torch7's default is ``dampening = momentum`` (None here): with
    momentum 0.9 a step is then a tenth of that of ``optax.sgd`` at the same rate, but for the
    first step's whole gradient, which has a tenth of its weight left after 22 steps.
    """
    if learning_rate <= 0 or not 0 <= momentum < 1 or min(learning_rate_decay, weight_decay) < 0:
        raise UsageError(
            f"learning_rate={learning_rate}, momentum={momentum}, "
            f"learning_rate_decay={learning_rate_decay}, weight_decay={weight_decay}: must be "
            "positive, in [0, 1), at least 0, at least 0"
        )
    kept = 1.0 - (momentum if dampening is None else dampening)

    def init(params: Any) -> DampenedSgdState:
        return DampenedSgdState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, DampenedSgdState]:
        if params is None:
            raise ValueError("dampened_sgd needs the parameters: update(gradients, state, params)")
        decayed = jax.tree.map(lambda g, w: g + weight_decay * w, updates, params)
        share = jnp.where(state.step == 0, 1.0, kept)
        velocity = jax.tree.map(lambda v, g: momentum * v + share * g, state.velocity, decayed)
        rate = learning_rate / (1.0 + learning_rate_decay * state.step)
        change = jax.tree.map(lambda v: -rate * v, velocity)
        return change, DampenedSgdState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)
