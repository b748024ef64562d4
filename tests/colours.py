"""A network that learns nothing and embeds an image as its colour, and people of known colours."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from siamjax.data import of_arrays
from siamjax.data.people import People
from siamjax.training import Finished


class Colour(nn.Module):
    """Compares by the Euclidean distance of its embeddings, as it has no ``compare``."""

    scale: float = 1.0

    def embed(self, x, *, train=False):
        return self.scale * x[:, 0, 0].astype(jnp.float32)


class ColourLogit(Colour):
    """The same distance as a value that rises with similarity."""

    measure: ClassVar[str] = "logit"
    rises_with_similarity: ClassVar[bool] = True

    def compare(self, first, second):
        return 10.0 - jnp.sqrt(jnp.square(first - second).sum(-1))


def colour_run(folder, network=None, **manifest):
    """A finished run of such a network."""
    variables = {"params": {"unused": np.zeros(1, np.float32)}}
    about = {"network": {}, "size": [2, 2], "step": 0, **manifest}
    network = network or Colour()
    return Finished(
        folder=folder, manifest=about, network=network, variables=variables, size=(2, 2)
    )


def coloured(count, *, each=4, spread=20.0, seed=0):
    """So many people, named p000 and so on, of ``each`` images around a colour of their own."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(40, 215, (count, 1, 3)) + rng.normal(0, spread, (count, each, 3))
    pixels = colours.clip(0, 255).round().astype(np.uint8).reshape(-1, 1, 1, 3)
    names = np.repeat([f"p{number:03d}" for number in range(count)], each)
    return People(images=of_arrays(pixels.repeat(2, 1).repeat(2, 2), names, name="colours"))
