"""A small cross-input network and small images, for tests where the real ones are not needed."""

import functools
import io
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from siamjax.data.images import ImageSet

SIZE = (8, 4)
QUERIES, GALLERY = np.asarray([5, 0, 9, 3, 5]), np.asarray([8, 3, 1, 0, 12, 3, 7, 11])
TILE = (2, 3)  # 5 x 8: 3 x 3 tiles, both with a rest


class CrossInput(nn.Module):
    """Not symmetric, and not a function of a distance."""

    measure: ClassVar[str] = "logit"
    rises_with_similarity: ClassVar[bool] = True

    scale: float = 4.0
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.trunk = nn.Dense(6, dtype=self.dtype)
        self.last = nn.Dense(1)

    def embed(self, x):
        x = x.reshape(x.shape[0], 4, -1).astype(self.dtype) / 255
        return jnp.tanh(self.trunk(x))

    def compare(self, first, second):
        flat = [u.astype(jnp.float32).reshape(*u.shape[:-2], -1) for u in (first, second)]
        both = jnp.concatenate([flat[0], jnp.sin(3 * flat[1]), flat[0] * flat[1]], axis=-1)
        return self.scale * self.last(both)[..., 0]

    def __call__(self, x1, x2):
        return self.compare(self.embed(x1), self.embed(x2))


def variables_of(network, *, seed=0, size=SIZE):
    image = np.zeros((1, *size, 3), np.uint8)
    return jax.jit(network.init)(jax.random.key(seed), image, image)


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def noise_images(count, *, size=SIZE, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)
    names = tuple(f"p{index}.png" for index in range(count))
    images = ImageSet(
        name="noise",
        credit="",
        keys=names,
        identities=np.asarray(names),
        source=tuple(map(png, pixels)),
    )
    return images, pixels


@functools.cache
def _applied(network):
    return jax.jit(network.apply)


def pair_by_pair(network, variables, pixels, queries, gallery, *, backward=False):
    """The plain network, one pair a call."""
    apply = _applied(network)
    rows = []
    for query in queries:
        for other in gallery:
            pair = (pixels[other], pixels[query]) if backward else (pixels[query], pixels[other])
            value = apply(variables, *(image[None] for image in pair))
            rows.append(np.asarray(value[0] if isinstance(value, tuple) else value)[0])
    return np.asarray(rows).reshape(len(queries), len(gallery))


class Stopped(BaseException):
    """What no code catches."""


def stop_after(monkeypatch, owner, name, calls):
    """Raise in place of the call after so many."""
    function, count = getattr(owner, name), 0

    def counted(*args, **options):
        nonlocal count
        count += 1
        if count > calls:
            raise Stopped
        return function(*args, **options)

    monkeypatch.setattr(owner, name, counted)
