"""The 19-layer network against PyTorch: same parameters, same numbers, same gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from siamjax.models.lfw import LfwNet

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: benchmarks)")


def torch_network(params, side):
    """Built from our parameters: HWIO -> OIHW, and dense rows from (H, W, C) to (C, H, W)."""
    from torch import nn

    layers = []
    for block in range(1, 5):
        kernel = np.asarray(params[f"conv{block}"]["kernel"]).transpose(3, 2, 0, 1)
        outputs, inputs, size, _ = kernel.shape
        convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2)
        fill(convolution, kernel, params[f"conv{block}"]["bias"])
        norm = nn.BatchNorm2d(outputs)
        fill(norm, params[f"norm{block}"]["scale"], params[f"norm{block}"]["bias"])
        layers += [convolution, nn.ReLU(), norm]
        if block < 4:
            layers.append(nn.MaxPool2d(2))
    kernel = np.asarray(params["dense"]["kernel"])
    features = kernel.shape[1]
    rows = kernel.reshape(side // 8, side // 8, -1, features).transpose(3, 2, 0, 1)
    dense = nn.Linear(kernel.shape[0], features)
    fill(dense, rows.reshape(features, -1), params["dense"]["bias"])
    norm = nn.BatchNorm1d(features)
    fill(norm, params["norm5"]["scale"], params["norm5"]["bias"])
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.ReLU(), norm)


def fill(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.asarray(weight)))
        layer.bias.copy_(torch.tensor(np.asarray(bias)))


@pytest.mark.parity
def test_forward_statistics_and_gradient(rng):
    side = 32
    net = LfwNet(width=0.125)
    x = rng.random((6, side, side, 3)).astype(np.float32)
    variables = net.init(jax.random.key(0), jnp.asarray(x))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), variables["params"]
    )
    cotangent = rng.normal(size=(6, 128)).astype(np.float32)

    def total(params):
        y, state = net.apply(
            {"params": params, "batch_stats": variables["batch_stats"]},
            jnp.asarray(x),
            train=True,
            mutable=["batch_stats"],
        )
        return (y * cotangent).sum(), (y, state["batch_stats"])

    gradient, (y, statistics) = jax.grad(total, has_aux=True)(params)
    other = torch_network(params, side)
    z = other(torch.tensor(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(y, z.detach().numpy(), atol=1e-3)
    (z * torch.tensor(cotangent)).sum().backward()
    theirs = other[0].weight.grad.numpy().transpose(2, 3, 1, 0)
    ours = np.asarray(gradient["conv1"]["kernel"])
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    mean = other[2].running_mean.numpy()
    np.testing.assert_allclose(statistics["norm1"]["mean"], mean, rtol=1e-4, atol=1e-6)
