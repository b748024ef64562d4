"""What torchreid gives: the numbers that test_convolutional_parity.py compares with.

In an environment of its own, `pip install torchreid==0.2.5 torch torchvision` and what importing it
then still asks for:

    python torchreid_osnet.py torchreid_osnet.npz
"""

import json
import sys

import numpy as np

SIZES = ((64, 32), (50, 41))


def drawn(shapes):
    """A state dict of these shapes: kernels N(0, 1 / fan in), norms about 1, biases about 0."""
    random = np.random.default_rng(0)
    state = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        if name.endswith("num_batches_tracked"):
            state[name] = np.zeros(shape, np.int64)
            continue
        values = random.normal(size=shape)
        if name.endswith("running_var"):
            values = 0.5 + random.random(size=shape)
        elif len(shape) > 1:
            values *= np.prod(shape[1:]) ** -0.5
        else:
            values = 0.1 * values + name.endswith("weight")
        state[name] = values.astype(np.float32)
    return state


def images(size):
    """Two, in [0, 1], channels last; and what the gradient is taken of: their 512 features."""
    random = np.random.default_rng(1)
    return random.random((2, *size, 3), np.float32), random.random((2, 512), np.float32)


def main(out):
    import torch
    from torchreid.reid.models import build_model

    torch.set_num_threads(1)
    model = build_model("osnet_x1_0", num_classes=5, pretrained=False).eval()
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(v) for name, v in drawn(shapes).items()})
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    results = {"shapes": np.array(json.dumps(shapes))}
    for number, size in enumerate(SIZES):
        x, cotangent = map(torch.from_numpy, images(size))
        x.requires_grad_()
        features = model(((x - mean) / deviation).permute(0, 3, 1, 2))
        (gradient,) = torch.autograd.grad((features * cotangent).sum(), x)
        results[f"features{number}"] = features.detach().numpy()
        results[f"gradient{number}"] = gradient[:, ::5, ::5].numpy()
    np.savez_compressed(out, **results)


if __name__ == "__main__":
    main(sys.argv[1])
