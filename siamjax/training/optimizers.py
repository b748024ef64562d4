"""Optimizers and schedules that flags can name, and the one that Torch7's recipes need."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from siamjax.errors import UsageError

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine"]
_FROZEN = "/frozen"  # no path begins so


def make_optimizer(
    name: OptimizerName,
    *,
    learning_rate: float,
    steps: int,
    schedule: ScheduleName = "constant",
    warmup_steps: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    accumulate: int = 1,
    begin: int = 0,
) -> optax.GradientTransformation:
    """An Optax optimizer from a command line's words; a program composes Optax itself.

    ``weight_decay`` is added to the gradient before momentum for sgd and adam (L2), and decoupled
    for adamw. ``accumulate`` averages that many batches (of one size and without padding, as
    training batches are) before an update; warm-up and schedule then count updates. ``steps``
    counts batches, the whole run's. Before batch ``begin`` nothing changes; the schedule counts
    those batches too, so that all parts of a network end together.
    """
    if accumulate < 1 or warmup_steps < 0 or learning_rate <= 0:
        raise UsageError(
            f"accumulate={accumulate}, warmup_steps={warmup_steps}, learning_rate={learning_rate}: "
            "must be at least 1, at least 0 and positive"
        )
    if steps % accumulate:
        raise UsageError(
            f"{steps} steps cannot be accumulated by {accumulate}: the last {steps % accumulate} "
            f"would be lost; use a multiple of {accumulate}"
        )
    updates = max(steps // accumulate, 1)
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if warmup_steps else learning_rate,
            learning_rate,
            warmup_steps,
            max(updates, warmup_steps + 1),
        )
    elif warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    else:
        rate = learning_rate
    if name == "sgd":
        core = optax.trace(momentum) if momentum else optax.identity()
    else:
        core = optax.scale_by_adam()
    if weight_decay:
        decay = optax.add_decayed_weights(weight_decay)
        core = optax.chain(core, decay) if name == "adamw" else optax.chain(decay, core)
    optimizer = optax.chain(
        from_step(core, begin // accumulate), optax.scale_by_learning_rate(rate)
    )
    if accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, accumulate).gradient_transformation()
    return optimizer


def by_layer(
    optimizers: Mapping[str | tuple[str, ...], optax.GradientTransformation],
    *,
    default: optax.GradientTransformation,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Another optimizer for some layers, such as a smaller rate for those that were pretrained.

    ``optimizers`` by the beginning of a parameter's path, such as ``deep/block1``, or by several
    of them for one optimizer; the longest that fits counts, and ``default`` where none does.
    Parameters that begin as one of ``frozen`` stay as they are, whatever else fits; their
    gradients are not even computed on one device.
    Raises ``UsageError`` at ``init`` for a beginning that no parameter has.
    """
    groups = {own if isinstance(own, tuple) else (own,): one for own, one in optimizers.items()}
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
