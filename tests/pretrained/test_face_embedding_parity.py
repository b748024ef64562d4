"""Against face-api itself, as it ran under node: ``frozen/face_api.mjs`` made the numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import siamjax
from siamjax.models import face_embedding
from siamjax.models.face_embedding import FaceEmbedding
from siamjax.models.products import Conv
from siamjax.pretrained import read_weights

REAL = Path(__file__).parents[3] / "shared/weights/face_embedding_tfjs"
FROZEN = Path(__file__).parent / "frozen/face_api.npy"

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not here")


@pytest.fixture(scope="module")
def weights():
    return read_weights(REAL)


@pytest.fixture(scope="module")
def faces():
    """Two of each of 10 people as face-api frames them, in [0, 1]."""
    file = Path(siamjax.__file__).parent / "data/embedded/orl_faces.npz"
    images = np.load(file)["images"][:20:2, :2].reshape(-1, 112, 92)
    framed = np.stack([framed_by_face_api(image) for image in images])
    return np.repeat(framed[..., None], 3, axis=-1) / np.float32(255)


def framed_by_face_api(image):
    """Zeros on both sides make it square; then bilinear, pixel i being at i and not i + 1/2."""
    image = np.pad(image, ((0, 0), (10, 10))).astype(np.float32)
    places = np.arange(150, dtype=np.float32) * np.float32(112 / 150)
    low = places.astype(int)
    high, share = np.minimum(low + 1, 111), places - low
    image = image[low] * (1 - share)[:, None] + image[high] * share[:, None]
    return image[:, low] * (1 - share) + image[:, high] * share


def frozen():
    values = np.load(FROZEN)
    return values[: 20 * 128].reshape(20, 128), values[20 * 128 :].reshape(15, 15, 3)


def furthest(weights, faces, **changes):
    network = weights.network.clone(**changes)
    return np.abs(jax.jit(network.apply)(weights.variables, faces) - frozen()[0]).max()


def test_the_embeddings_of_20_faces(weights, faces):
    assert isinstance(weights.network, FaceEmbedding)
    assert weights.size == (150, 150)
    assert sum(tensor.size for tensor in weights.tensors.values()) == 5_614_592
    assert 1.3 < np.linalg.norm(frozen()[0], axis=1).mean() < 1.5
    assert furthest(weights, faces) < 2e-5


def test_the_gradient_of_an_image(weights, faces):
    def total(image):
        return weights.network.apply(weights.variables, image[None]).sum()

    gradient = jax.jit(jax.grad(total))(faces[0])[::10, ::10] / 255
    # Beside the face all is 0, so maxima are equal: there face-api chooses one, siamjax shares.
    gradient, expected = gradient[:, 2:14], frozen()[1][:, 2:14]
    assert np.abs(gradient - expected).max() < 1e-4 * np.abs(expected).max()


class PadsFirst(Conv):
    """Pads even maps before the convolution, in place of its result."""

    def __call__(self, inputs):
        if self.strides == 2 and self.kernel_size == (3, 3):
            (rows, columns) = (1 - side % 2 for side in inputs.shape[1:3])
            inputs = jnp.pad(inputs, ((0, 0), (0, rows), (0, columns), (0, 0)))
        return super().__call__(inputs)


def test_what_is_wrong_is_seen(weights, faces, monkeypatch):
    assert furthest(weights, faces, preprocessing="unit") > 1e-2
    monkeypatch.setattr(face_embedding, "Conv", PadsFirst)
    assert furthest(weights, faces) > 1e-2
