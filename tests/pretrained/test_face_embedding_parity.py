"""Against face-api itself, as it ran under node: ``frozen/face_api.mjs`` made the numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from peers import furthest

import siamjax
from siamjax.data.transforms import Framing, resize
from siamjax.models import face_embedding
from siamjax.models.face_embedding import FaceEmbedding
from siamjax.models.products import Conv
from siamjax.pretrained import read_weights

REAL = Path(__file__).parents[3] / "shared/weights/face_embedding_tfjs"
CLOSE = 1e-4  # of the root mean square: face-api's sums are JavaScript's, in another order
FROZEN = Path(__file__).parent / "frozen/face_api.npy"

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")


@pytest.fixture(scope="module")
def weights():
    return read_weights(REAL)


@pytest.fixture(scope="module")
def faces():
    """Two of each of 10 people as face-api frames them, in [0, 1]."""
    return np.stack([framed_by_face_api(image[..., 0]) for image in pictures()]) / np.float32(255)


def pictures():
    file = Path(siamjax.__file__).parent / "data/embedded/orl_faces.npz"
    images = np.load(file)["images"][:20:2, :2].reshape(-1, 112, 92)
    return np.repeat(images[..., None], 3, axis=-1)


def framed_by_face_api(image):
    """Zeros on both sides make it square; then bilinear, pixel i being at i and not i + 1/2."""
    image = np.pad(image, ((0, 0), (10, 10))).astype(np.float32)
    places = np.arange(150, dtype=np.float32) * np.float32(112 / 150)
    low = places.astype(int)
    high, share = np.minimum(low + 1, 111), places - low
    image = image[low] * (1 - share)[:, None] + image[high] * share[:, None]
    image = image[:, low] * (1 - share) + image[:, high] * share
    return np.repeat(image[..., None], 3, axis=-1)


def frozen():
    values = np.load(FROZEN)
    return values[: 20 * 128].reshape(20, 128), values[20 * 128 :].reshape(15, 15, 3)


def difference(weights, faces, **changes):
    network = weights.network.clone(**changes)
    return furthest(jax.jit(network.apply)(weights.variables, faces), frozen()[0])


def test_20_faces(weights, faces, row):
    assert isinstance(weights.network, FaceEmbedding)
    assert sum(tensor.size for tensor in weights.tensors.values()) == 5_614_592
    assert 1.3 < np.linalg.norm(frozen()[0], axis=1).mean() < 1.5
    outputs, gradients = difference(weights, faces), of_the_gradient(weights, faces)
    row("same", "face network of 29 layers, face-api", [(150, 150)], outputs, gradients)
    assert max(outputs, gradients) < CLOSE


def of_the_gradient(weights, faces):
    def total(image):
        return weights.network.apply(weights.variables, image[None]).sum()

    gradient = jax.jit(jax.grad(total))(faces[0])[::10, ::10] / 255
    # Beside the face all is 0, so maxima are equal: there face-api chooses one, siamjax shares.
    return furthest(gradient[:, 2:14], frozen()[1][:, 2:14])


def test_pictures_are_padded_as_by_face_api(weights, faces, row):
    """But antialiased, and with pixel i at i + 1/2: that moves embeddings, of norm 1.4, by 0.03."""
    assert weights.size == Framing(size=(150, 150), pad=True)
    ours = np.stack([weights.size(picture) for picture in pictures()]) / np.float32(255)
    row("framing", "face network, face-api", [(112, 92)], float(255 * np.abs(ours - faces).max()))
    embed = jax.jit(weights.network.apply)
    stretched = np.stack([resize(picture, (150, 150)) for picture in pictures()])
    for images, least, most in ((ours, 0.01, 0.05), (stretched, 0.2, 0.4)):
        off = np.linalg.norm(embed(weights.variables, images) - frozen()[0], axis=1).mean()
        assert least < off < most
    outputs = furthest(embed(weights.variables, stretched), frozen()[0])
    row("wrong", "face network, face-api", "images stretched", outputs)


class PadsFirst(Conv):
    """Pads even maps before the convolution, in place of its result."""

    def __call__(self, inputs):
        if self.strides == 2 and self.kernel_size == (3, 3):
            (rows, columns) = (1 - side % 2 for side in inputs.shape[1:3])
            inputs = jnp.pad(inputs, ((0, 0), (0, rows), (0, columns), (0, 0)))
        return super().__call__(inputs)


def test_what_is_wrong_is_seen(weights, faces, monkeypatch, row):
    name = "face network, face-api"
    outputs = difference(weights, faces, preprocessing="unit")
    row("wrong", name, "preprocessing unit", outputs)
    assert outputs > 100 * CLOSE
    monkeypatch.setattr(face_embedding, "Conv", PadsFirst)
    outputs = difference(weights, faces)
    row("wrong", name, "padding before the convolution", outputs)
    assert outputs > 100 * CLOSE
