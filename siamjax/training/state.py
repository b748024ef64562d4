"""The training state: everything that a train step changes."""

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.models.applying import states
from siamjax.models.protocols import Compares
from siamjax.options import Seed, plain

if TYPE_CHECKING:
    import optax


class AveragedState(NamedTuple):
    """State of an optimizer that averages the parameters (:func:`siamjax.training.averaged`).

    Attributes:
        count: steps done.
        inner: the optimizer's own state.
        average: of the parameters.
    """

    count: Int[Array, ""]
    inner: Any
    average: Any


@flax.struct.dataclass
class TrainState:
    """Everything that a run needs to resume bit for bit.

    ``step`` is also the position in the data: batches are drawn from (seed, step). The randomness
    of a step is ``key`` folded with the step and the device, so ``key`` never changes.
    """

    step: Int[Array, ""]
    params: Any
    model_state: Any
    opt_state: Any
    key: Key[Array, ""]

    @property
    def variables(self) -> dict[str, Any]:
        """Parameters and model state, as a linen module's ``apply`` takes them."""
        return {"params": self.params, **self.model_state}

    @property
    def averaged(self) -> "TrainState":
        """This state with its parameters and their averages exchanged; twice gives it back.

        An optimizer that keeps no averages (:func:`siamjax.training.averaged`) leaves it as it is.
        """
        if not isinstance(self.opt_state, AveragedState):
            return self
        opt_state = self.opt_state._replace(average=self.params)
        return dataclasses.replace(self, params=self.opt_state.average, opt_state=opt_state)


def initialize(network: nn.Module, size: Size, seed: int) -> tuple[dict[str, Any], Key[Array, ""]]:
    """Initial variables of a network for images of ``size``, and a key for its training.

    A network that compares is called with two images, any other with one. A network that asks for
    a stream of random numbers as it is made, as one of Flax NNX with dropout does, gets one. Raises
    ``UsageError`` for a seed of more than 32 bits, of which JAX would drop the others.
    """
    init_key, key = jax.random.split(jax.random.key(plain("seed", seed, Seed)))
    keys = {"params": init_key, "dropout": jax.random.fold_in(init_key, 1)}
    image = jnp.zeros((1, *sides(size), 3), jnp.uint8)
    images = (image, image) if isinstance(network, Compares) else (image,)
    return jax.jit(network.init)(keys, *images), key


def create_state(
    variables: dict[str, Any], optimizer: "optax.GradientTransformation", *, key: Key[Array, ""]
) -> TrainState:
    """The state of step 0 from a module's variables: ``params``, and as ``model_state`` the rest.

    There need not be parameters. What a module has sown (``Module.sow``) is no state.

    A step that donates its state deletes the arrays of ``variables``, but not ``key``. Raises
    ``UsageError`` for a variable whose names are not all texts.
    """
    for path, _ in jax.tree_util.tree_leaves_with_path(variables):
        if not all(isinstance(getattr(one, "key", ""), str) for one in path):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UsageError(
                f"the variable {where} has a number among its names, and could not be read again "
                "once it is saved; siamjax.models.NnxNetwork takes a network of Flax NNX, whose "
                "lists do this"
            )
    params = variables.get("params", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={name: variables[name] for name in states(variables)},
        opt_state=optimizer.init(params),
        key=jax.random.clone(key),
    )
