"""Networks of other libraries with random weights, and how far ours are from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.peers import import_torchvision

OUTPUTS, GRADIENTS = 2e-5, 1e-4
"""What is allowed, of the peer's root mean square."""


def peer(name):
    """A library that stands on PyTorch and torchvision; the test is skipped without it."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    try:
        import_torchvision()
    except ImportError:
        pytest.skip("no torchvision")
    return pytest.importorskip(name)


def redrawn(model, *, constants=(), tables=(), seed=0):
    """Kernels drawn from N(0, 1 / fan in), norms about 1, biases about 0, statistics as of data.

    ``constants`` are words in the names of factors that become 0.5; ``tables`` of parameters that
    are added to maps, drawn from N(0, 0.01).
    """
    import torch

    random = torch.Generator().manual_seed(seed)

    def draw(of, deviation):
        return torch.randn(of.shape, generator=random) * deviation

    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            if any(word in name for word in constants):
                value.fill_(0.5)
            elif any(name.endswith(word) for word in tables):
                value.copy_(draw(value, 0.1))
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=random) + 0.5)
            elif value.ndim > 1:
                value.copy_(draw(value, value[0].numel() ** -0.5))
            else:
                value.copy_(draw(value, 0.1) + (1 if name.endswith("weight") else 0))
    return model.eval()


def differences(network, variables, forward, shape, moments, *, seed=0):
    """Largest differences of outputs and of an image's gradients, in the peer's rms.

    ``forward`` takes channels first, with mean and standard deviation applied.
    """
    import torch

    random = np.random.default_rng(seed)
    x = (random.integers(0, 256, (2, *shape, 3)) / 255).astype(np.float32)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
    mean, deviation = (torch.tensor(of_channels).reshape(1, 3, 1, 1) for of_channels in moments)
    expected = forward((theirs - mean) / deviation)
    cotangent = random.normal(size=expected.shape).astype(np.float32)
    (gradient,) = torch.autograd.grad((expected * torch.from_numpy(cotangent)).sum(), theirs)

    @jax.jit
    def both(variables, x):
        out, pull = jax.vjp(lambda x: network.apply(variables, x), x)
        return out, pull(jnp.asarray(cotangent))[0]

    outputs, gradients = both(variables, x)
    return (
        furthest(outputs, expected.detach().numpy()),
        furthest(gradients, gradient.numpy().transpose(0, 2, 3, 1)),
    )


def furthest(ours, theirs):
    """Largest difference, in the root mean square of theirs."""
    return float(np.abs(ours - theirs).max() / np.sqrt(np.mean(np.square(theirs))))


def worst(differences):
    """The largest of the outputs' and of the gradients', of one network at several sizes."""
    return [max(each) for each in zip(*differences, strict=True)]
