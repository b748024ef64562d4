"""Variables of a network, drawn by NumPy: no compilation, and the same in every version of JAX."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(network, size):
    """Kernels N(0, 2 / fan in), so that activations keep their size; no scale 1, no bias 0."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        if name in ("scale", "var", "slope"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0, 0.1, leaf.shape)

    like = jax.eval_shape(network.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: drawn(path, leaf).astype(np.float32), like
    )
