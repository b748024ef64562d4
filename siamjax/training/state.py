"""All that a training run changes."""

from typing import Any

import flax.struct
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key


@flax.struct.dataclass
class TrainState:
    """Everything that a resumed run needs to go on bit for bit.

    The data position is ``step`` itself: batches are drawn from (seed, step). Randomness of a
    step is ``key`` folded with the step and the device, so the key never changes.
    """

    step: Int[Array, ""]
    params: Any
    model_state: Any
    opt_state: Any
    key: Key[Array, ""]

    @property
    def variables(self) -> dict[str, Any]:
        """What a linen module's ``apply`` takes: parameters and model state."""
        return {"params": self.params, **self.model_state}


def create_state(
    variables: dict[str, Any], optimizer: optax.GradientTransformation, *, key: Key[Array, ""]
) -> TrainState:
    """Step 0 from a module's variables: ``params``, and the rest as ``model_state``."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={name: value for name, value in variables.items() if name != "params"},
        opt_state=optimizer.init(params),
        key=key,
    )
