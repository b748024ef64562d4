"""Checkpoints: the whole training state, the latest and the best of them, never a broken one."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from siamjax.errors import UsageError
from siamjax.training.parallel import replicated_sharding
from siamjax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, in Orbax's format, a folder a step.

    Kept are the two latest and the best by the metric ``best`` (the higher the better). Each
    holds ``variables`` (parameters and batch statistics: all that using the network needs) and
    ``training`` (step, optimizer, key). Saving returns when the files are complete.
    """

    def __init__(self, folder: Path, *, best: str) -> None:
        self._folder, self._best = folder.absolute(), best
        # Any: Orbax's annotations do not admit its own policies, paths and metrics.
        policies: Any = ocp.training.preservation_policies
        self._orbax: Any = ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(2),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[best],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )

    def steps(self) -> list[int]:
        """The steps that are saved, ascending."""
        return sorted(checkpoint.step for checkpoint in self._orbax.checkpoints)

    def best_step(self) -> int | None:
        """The step with the best metric, the earliest of equals; the latest if none has one."""
        rated = [(c.metrics[self._best], -c.step) for c in self._orbax.checkpoints if c.metrics]
        if rated:
            return -max(rated)[1]
        return max(self.steps(), default=None)

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Save the state at its step, and wait until it is on disk; saved already: nothing."""
        step = int(state.step)
        if step in self.steps():
            return
        if not all_finite(state.params):
            raise UsageError(
                f"parameters after step {step} are not finite, so they were not saved; the last "
                f"good checkpoint is that of step {max(self.steps(), default='none')} in "
                f"{self._folder}; lower the learning rate"
            )
        self._orbax.save_checkpointables(
            step, {"variables": _variables(state), "training": _training(state)}, metrics=metrics
        )

    def restore(self, like: TrainState) -> tuple[TrainState | None, list[str]]:
        """The latest state that can be read, replicated, and a sentence on each one that cannot.

        ``like`` gives the structure and is not used otherwise. A damaged checkpoint is moved to
        ``damaged/`` beside the others, so that its step can be saved anew and nothing is deleted.
        """
        messages = []
        for step in reversed(self.steps()):
            wanted = {
                "variables": _abstract(_variables(like)),
                "training": _abstract(_training(like)),
            }
            try:
                loaded = self._orbax.load_checkpointables(step, wanted)
            except Exception as error:  # Orbax has no one type for what a damaged file raises
                moved = self._set_aside(step)
                messages.append(
                    f"checkpoint of step {step} cannot be read ({_first_line(error)}); "
                    f"moved to {moved}, going back to the one before it"
                )
                continue
            variables, training = loaded["variables"], loaded["training"]
            state = TrainState(
                step=training["step"],
                params=variables["params"],
                model_state={k: v for k, v in variables.items() if k != "params"},
                opt_state=training["opt_state"],
                key=training["key"],
            )
            return state, messages
        return None, messages

    def variables(self, step: int, like: Any) -> Any:
        """Parameters and batch statistics of a step, shaped as ``like``, replicated."""
        try:
            return self._orbax.load_checkpointables(step, {"variables": _abstract(like)})[
                "variables"
            ]
        except Exception as error:
            raise UsageError(
                f"{self._folder / str(step)}: this checkpoint cannot be read "
                f"({_first_line(error)}); choose another of steps {self.steps()} with --step"
            ) from error

    def close(self) -> None:
        """Release Orbax's threads."""
        self._orbax.close()

    def _set_aside(self, step: int) -> Path:
        target = self._folder.parent / "damaged" / str(step)
        target.parent.mkdir(exist_ok=True)
        while target.exists():
            target = target.with_name(target.name + "-again")
        os.replace(self._folder / str(step), target)
        self._orbax.reload()
        return target


def all_finite(tree: Any) -> bool:
    """Whether every number of the tree is finite."""
    return bool(_all_finite(tree))


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]))


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, **state.model_state}


def _training(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _abstract(tree: Any) -> Any:
    sharding = replicated_sharding()
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
    )


def _first_line(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"
        if str(error)
        else repr(error)
    )
