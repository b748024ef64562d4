"""What Optax lacks: optimizers by layer, layers that begin later, averages, and Torch7's SGD."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from siamjax.checks import begins, require_number
from siamjax.errors import UsageError
from siamjax.training.state import AveragedState

_FROZEN = "/frozen"  # no parameter's path begins with a slash


def by_layer(
    optimizers: Mapping[Any, optax.GradientTransformation],
    *,
    default: optax.GradientTransformation,
    frozen: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Another optimizer for some layers, such as a smaller rate for pretrained ones.

    The keys of ``optimizers`` are prefixes of parameters' paths, such as ``deep/block1`` (which
    ``deep/block10`` does not have), or tuples of prefixes that share one optimizer. The longest
    prefix that fits decides, and ``default`` where none fits. Parameters with a prefix in
    ``frozen`` do not change, whatever else fits; on one device their gradients are not even
    computed.
    Raises ``UsageError`` at ``init`` for a prefix that no parameter has, and if all are frozen.
    """
    groups = {own if isinstance(own, tuple) else (own,): one for own, one in optimizers.items()}
    groups.pop((), None)  # an empty group, such as layers_between(block, block)
    named: dict[Hashable, optax.GradientTransformation] = {
        **{own[0]: one for own, one in groups.items()},
        "": default,
        _FROZEN: optax.set_to_zero(),
    }
    group = {"": "", **{prefix: own[0] for own in groups for prefix in own}}

    def label(path: str) -> str:
        if begins(path, frozen):
            return _FROZEN
        return group[max((one for one in group if begins(path, (one,))), key=len)]

    def labels(params: Any) -> Any:
        # By tuples too: a name may have a slash within it.
        flat = {"/".join(path): path for path in flax.traverse_util.flatten_dict(params)}
        for prefix in (*group, *frozen):
            if not any(begins(path, (prefix,)) for path in flat):
                layers = sorted({"/".join(path.split("/")[:-1][:2]) or path for path in flat})
                what = "frozen: no layer" if prefix in frozen else "no layer"
                raise UsageError(f"{what} begins with {prefix!r}; there are {', '.join(layers)}")
        chosen = {path: label(name) for name, path in flat.items()}
        if all(one == _FROZEN for one in chosen.values()):
            named = ", ".join(map(repr, frozen))
            raise UsageError(f"frozen: {named} leaves nothing to train; leave a layer out of it")
        return flax.traverse_util.unflatten_dict(chosen)

    return optax.partition(named, labels)


def from_step(optimizer: optax.GradientTransformation, step: int) -> optax.GradientTransformation:
    """An optimizer that does nothing before ``step`` (the first is 0) and then begins as new.

    Its schedules count from there too, and averages such as Adam's do not begin with zeros.
    """
    require_number("step", step, at_least=0)
    if step == 0:
        return optimizer
    begin = step

    def begun(step: Any, **_: Any) -> Any:
        return step >= begin

    return optax.conditionally_mask(optimizer, begun)


def averaged(
    optimizer: optax.GradientTransformation, *, decay: float = 0.999
) -> optax.GradientTransformation:
    """An optimizer that also averages the parameters; ``fit`` evaluates and saves the averages.

    After step t the average is (1 - decay) sum_s decay^(t-s) w_s / (1 - decay^t), over the
    parameters w_s after the steps s = 1 to t: it remembers 1 / (1 - decay) steps, and begins
    without a bias, as the averages of Adam (Kingma and Ba 2015, section 3). It must be the
    outermost transformation. Gradients are those of the parameters themselves, and the statistics
    of batch normalisation are not averaged again. Raises ``UsageError`` for a decay outside (0, 1).
    """
    require_number("decay", decay, above=0, below=1)

    def init(params: Any) -> AveragedState:
        # A copy, as a step that donates its state cannot donate one array twice.
        average = jax.tree.map(jnp.copy, params)
        return AveragedState(jnp.zeros((), jnp.int32), optimizer.init(params), average)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AveragedState]:
        updates, inner = optimizer.update(updates, state.inner, params)
        count = state.count + 1
        share = (1.0 - decay) / -jnp.expm1(count.astype(jnp.float32) * math.log(decay))
        average = jax.tree.map(
            lambda old, new: (1 - share.astype(old.dtype)) * old + share.astype(old.dtype) * new,
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, AveragedState(count, inner, average)

    return optax.GradientTransformation(init, update)


def warmup_cosine_decay(peak: float, *, warmup: int, steps: int) -> optax.Schedule:
    """A rate that rises from 0 to ``peak`` in ``warmup`` steps and falls to 0 at the last step.

    As ``optax.warmup_cosine_decay_schedule``; ``UsageError`` for a warm-up that is not shorter than
    the run's ``steps``.
    """
    require_number("peak", peak, above=0)
    require_number("steps", steps, at_least=1)
    require_number("warmup", warmup, at_least=0)
    if warmup >= steps:
        raise UsageError(f"warmup {warmup}: must be shorter than the run, which has {steps} steps")
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)


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
    (1 - dampening) * g``; ``w -= learning_rate / (1 + learning_rate_decay * step) * v``: the rate
    falls with every *step*, not epoch. Torch7's default is ``dampening = momentum`` (None here):
    with momentum 0.9 a step is then a tenth of that of ``optax.sgd`` at the same rate, except that
    the first gradient counts in full; a tenth of it is left after 22 steps.

    Raises ``UsageError`` for a learning rate that is not positive, a momentum outside [0, 1), a
    dampening outside [0, 1] and a negative decay.
    """
    require_number("learning_rate", learning_rate, above=0)
    require_number("momentum", momentum, at_least=0, below=1)
    require_number("learning_rate_decay", learning_rate_decay, at_least=0)
    require_number("weight_decay", weight_decay, at_least=0)
    kept = 1.0 - (momentum if dampening is None else dampening)
    require_number("dampening", 1.0 - kept, at_least=0, at_most=1)

    def init(params: Any) -> DampenedSgdState:
        return DampenedSgdState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, DampenedSgdState]:
        if params is None:
            raise ValueError("dampened_sgd needs the parameters: update(gradients, state, params)")
        decayed = jax.tree.map(lambda g, w: g + weight_decay * w, updates, params)
        share = jnp.where(state.step == 0, 1.0, kept)
        velocity = jax.tree.map(lambda v, g: momentum * v + share * g, state.velocity, decayed)
        rate = learning_rate / (1.0 + learning_rate_decay * state.step.astype(jnp.float32))
        change = jax.tree.map(lambda v: -rate.astype(v.dtype) * v, velocity)
        return change, DampenedSgdState(state.step + 1, velocity)

    return optax.GradientTransformation(init, update)
