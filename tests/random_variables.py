"""Variables of a network, drawn by NumPy: no compilation, and the same in every version of JAX."""

import jax
import numpy as np

from siamjax.training import initialize


def random_variables(network, size, *, seed=0):
    """Kernels N(0, 2 / fan in), so that activations keep their size; no scale 1, no bias 0."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        layer, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")[-2:]
        if not np.issubdtype(leaf.dtype, np.floating):
            return np.zeros(leaf.shape)
        if (layer, name) == ("norm5", "scale"):  # LfwNet's embeddings are 1 apart
            return np.full(leaf.shape, (2 * leaf.size) ** -0.5)
        if name == "kernel":
            return rng.normal(0, (2 / np.prod(leaf.shape[:-1])) ** 0.5, leaf.shape)
        if name in ("scale", "var", "slope"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0, 0.1, leaf.shape)

    like = jax.eval_shape(lambda: initialize(network, size, seed=0)[0])
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: drawn(path, leaf).astype(leaf.dtype), like
    )
