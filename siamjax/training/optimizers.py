"""Optimizers and schedules that flags can name."""

from typing import Literal

import optax

from siamjax.errors import UsageError

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["constant", "cosine"]


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
) -> optax.GradientTransformation:
    """An Optax optimizer from a command line's words; a program composes Optax itself.

    ``weight_decay`` is added to the gradient before momentum for sgd and adam (L2), and decoupled
    for adamw. ``accumulate`` averages that many batches (of one size and without padding, as
    training batches are) before an update; warm-up and schedule then count updates. ``steps``
    counts batches, the whole run's.
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
    if name == "adamw":
        optimizer = optax.adamw(rate, weight_decay=weight_decay)
    else:
        base = optax.sgd(rate, momentum=momentum or None) if name == "sgd" else optax.adam(rate)
        optimizer = (
            optax.chain(optax.add_decayed_weights(weight_decay), base) if weight_decay else base
        )
    if accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, accumulate).gradient_transformation()
    return optimizer
