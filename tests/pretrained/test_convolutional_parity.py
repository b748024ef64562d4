"""ResNet, IResNet and OSNet against their peers: what these save we read and equal.

insightface and AdaFace are no packages, so their networks are built anew here, in PyTorch.
torchreid needs an environment of its own: ``frozen/torchreid_osnet.py`` made its numbers.
"""

import json
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen import torchreid_osnet
from peers import GRADIENTS, HALF, IMAGENET, OUTPUTS, differences, peer, redrawn
from PIL import Image

from siamjax.data.transforms import Framing, resize
from siamjax.errors import UsageError
from siamjax.models import IResNet, OSNet, ResNet, iresnet, osnet, products, resnet
from siamjax.models.normalization import BatchNorm
from siamjax.models.products import Conv
from siamjax.pretrained import read_weights

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DEPTHS = (2, 1, 1, 1)
TORCHREID = Path(__file__).parent / "frozen/torchreid_osnet.npz"


def torchvision_resnet(folder):
    models = peer("torchvision").models
    model = redrawn(models.ResNet(models.resnet.Bottleneck, list(DEPTHS), num_classes=5))
    import torch

    torch.save(model.state_dict(), folder / "w.pth")
    model.fc = torch.nn.Identity()
    return model, folder / "w.pth"


def timm_resnet(folder):
    timm = peer("timm")
    model = redrawn(timm.create_model("resnet50", layers=DEPTHS, num_classes=5))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return lambda x: model.forward_head(model.forward_features(x), pre_logits=True), folder


def residual_branch(before, after, stride):
    """The layers of a block of both face networks."""
    from torch.nn import BatchNorm2d, Conv2d, PReLU

    return (
        BatchNorm2d(before),
        Conv2d(before, after, 3, 1, 1, bias=False),
        BatchNorm2d(after),
        PReLU(after),
        Conv2d(after, after, 3, stride, 1, bias=False),
        BatchNorm2d(after),
    )


def projection(before, after, stride):
    from torch.nn import BatchNorm2d, Conv2d, Sequential

    return Sequential(Conv2d(before, after, 1, stride, bias=False), BatchNorm2d(after))


def with_slope(model, slope):
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.fill_(slope)
    return model


def widths_and_strides():
    """Of every block, in stages: channels before and after, stride."""
    before = 64
    for stage, depth in enumerate(DEPTHS):
        blocks = []
        for place in range(depth):
            blocks.append((before, 64 * 2**stage, 1 if place else 2))
            before = 64 * 2**stage
        yield blocks


def insightface(folder, slope):
    peer("torch")
    import torch
    from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Linear, Module, PReLU, Sequential

    class Block(Module):
        def __init__(self, before, after, stride):
            super().__init__()
            layers = residual_branch(before, after, stride)
            self.bn1, self.conv1, self.bn2, self.prelu, self.conv2, self.bn3 = layers
            if stride > 1:
                self.downsample = projection(before, after, stride)

        def forward(self, x):
            y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
            y = self.bn3(self.conv2(y))
            return y + (self.downsample(x) if hasattr(self, "downsample") else x)

    class Network(Module):
        def __init__(self):
            super().__init__()
            self.conv1 = Conv2d(3, 64, 3, 1, 1, bias=False)
            self.bn1, self.prelu = BatchNorm2d(64), PReLU(64)
            stages = [
                Sequential(*(Block(*one) for one in blocks)) for blocks in widths_and_strides()
            ]
            self.layer1, self.layer2, self.layer3, self.layer4 = stages
            self.bn2, self.fc = BatchNorm2d(512), Linear(512 * 7 * 7, 512)
            self.features = BatchNorm1d(512)

        def forward(self, x):
            x = self.prelu(self.bn1(self.conv1(x)))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.features(self.fc(self.bn2(x).flatten(1)))

    model = with_slope(redrawn(Network()), slope)
    torch.save({f"module.{name}": t for name, t in model.state_dict().items()}, folder / "w.pt")
    return lambda x: torch.nn.functional.normalize(model(x)), folder / "w.pt"


def adaface(folder, slope):
    peer("torch")
    import torch
    from torch.nn import (
        BatchNorm1d,
        BatchNorm2d,
        Conv2d,
        Dropout,
        Flatten,
        Linear,
        MaxPool2d,
        Module,
        PReLU,
        Sequential,
    )

    class Block(Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.res_layer = Sequential(*residual_branch(before, after, stride))
            same = before == after
            self.shortcut_layer = (
                MaxPool2d(1, stride) if same else projection(before, after, stride)
            )

        def forward(self, x):
            return self.res_layer(x) + self.shortcut_layer(x)

    class Network(Module):
        def __init__(self):
            super().__init__()
            first = Conv2d(3, 64, 3, 1, 1, bias=False)
            self.input_layer = Sequential(first, BatchNorm2d(64), PReLU(64))
            self.body = Sequential(*(Block(*one) for b in widths_and_strides() for one in b))
            last = (Linear(512 * 7 * 7, 512), BatchNorm1d(512, affine=False))
            self.output_layer = Sequential(BatchNorm2d(512), Dropout(0.4), Flatten(), *last)

        def forward(self, x):
            x = self.output_layer(self.body(self.input_layer(x.flip(1))))
            return x / x.norm(dim=1, keepdim=True)

    model = with_slope(redrawn(Network()), slope)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state["head.kernel"] = torch.zeros(512, 7)
    torch.save({"state_dict": state, "epoch": 3}, folder / "w.pth")
    return model, folder / "w.pth"


PEERS = {
    "torchvision": (torchvision_resnet, ResNet(DEPTHS), IMAGENET, ((64, 48), (57, 71))),
    "timm": (timm_resnet, ResNet(DEPTHS), IMAGENET, ((64, 48), (57, 71))),
}
FACES = ((112, 112), (98, 105))
# Of the millions of values before a PReLU some are so near to 0 that two libraries round them to
# different sides. So gradients are compared where its slope is 1 on both sides, and outputs also
# where it is not.
for slope in (0.5, 1.0):
    arcface = IResNet(DEPTHS)
    adaptive = IResNet(DEPTHS, variant="adaface", preprocessing="bgr_signed")
    PEERS[f"insightface {slope}"] = (partial(insightface, slope=slope), arcface, HALF, FACES)
    PEERS[f"adaface {slope}"] = (partial(adaface, slope=slope), adaptive, HALF, FACES)


@pytest.mark.parametrize("name", PEERS)
def test_against_the_peer(name, tmp_path, monkeypatch):
    build, network, moments, sizes = PEERS[name]
    forward, file = build(tmp_path)
    weights = read_weights(file)
    assert weights.network == network
    for size in sizes:
        # With seed 0 a ReLU's input is so near to 0 that the two round it to different sides.
        outputs, gradients = differences(
            weights.network, weights.variables, forward, size, moments, seed=1
        )
        print(name, size, f"outputs {outputs:.1e}, gradient {gradients:.1e}")
        assert outputs < OUTPUTS
        assert gradients < GRADIENTS or "0.5" in name
    if "1.0" not in name:
        see_what_is_wrong(weights, sizes[0], monkeypatch)


def see_what_is_wrong(weights, size, monkeypatch):
    """What differs as much as this from the right one, which is the peer's, would be seen."""
    x = np.random.default_rng(2).random((2, *size, 3), np.float32)
    right = jax.jit(weights.network.apply)(weights.variables, x)
    for wrong in (wrong_padding, wrong_epsilon, wrong_layer):
        with monkeypatch.context() as change:
            wrong(change)
            outputs = jax.jit(weights.network.clone().apply)(weights.variables, x)
        difference = np.abs(outputs - right).max() / np.sqrt(np.mean(np.square(right)))
        print(type(weights.network).__name__, wrong.__name__, f"{difference:.1e}")
        assert difference > 100 * OUTPUTS, wrong.__name__


def wrong_padding(change):
    """XLA's ``SAME``, of even maps with a stride."""
    same = partial(lambda conv, *args, padding, **rest: conv(*args, padding="SAME", **rest), Conv)
    change.setattr(products, "Conv", same)


def wrong_epsilon(change):
    """Keras' 1e-3 in place of 1e-5."""
    for module in (resnet, iresnet, osnet):
        change.setattr(module, "BatchNorm", partial(BatchNorm, epsilon=1e-3))


def wrong_layer(change):
    """Pooling with ``SAME``'s border; ReLU for PReLU."""
    same = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    for module in (resnet, osnet):
        change.setattr(module, "max_pool_3x3", lambda x, *, border: same(x))
    change.setattr(iresnet, "_PReLU", lambda name: jax.nn.relu)


@pytest.fixture
def torchreid(tmp_path):
    """The file that its network was loaded from, and what it gave."""
    save_file = pytest.importorskip("safetensors.numpy").save_file
    frozen = np.load(TORCHREID)
    state = torchreid_osnet.drawn(json.loads(str(frozen["shapes"])))
    save_file(state, tmp_path / "w.safetensors")
    return read_weights(tmp_path / "w.safetensors"), frozen


def from_torchreid(torchreid, number):
    """Largest differences from it, of features and gradients, in its root mean square."""
    weights, frozen = torchreid
    x, cotangent = torchreid_osnet.images(torchreid_osnet.SIZES[number])

    @jax.jit
    def both(variables, x):
        out, pull = jax.vjp(lambda x: weights.network.apply(variables, x), x)
        return out, pull(jnp.asarray(cotangent))[0][:, ::5, ::5]

    expected = frozen[f"features{number}"], frozen[f"gradient{number}"]
    return [
        float(np.abs(a - b).max() / np.sqrt(np.mean(np.square(b))))
        for a, b in zip(both(weights.variables, x), expected, strict=True)
    ]


def test_against_torchreid(torchreid, monkeypatch):
    assert torchreid[0].network == OSNet()
    assert torchreid[0].size == (256, 128)
    for number in (0, 1):
        outputs, gradients = from_torchreid(torchreid, number)
        print(f"osnet {number}: outputs {outputs:.1e}, gradient {gradients:.1e}")
        assert outputs < OUTPUTS
        assert gradients < GRADIENTS
    see_what_is_wrong(torchreid[0], (64, 32), monkeypatch)


@pytest.mark.parametrize("size", [(300, 260), (97, 480)])
def test_the_framing_of_torchvision(size):
    """Its own transform of the second weights, to one grey level."""
    import torch

    weights = peer("torchvision").models.ResNet50_Weights.IMAGENET1K_V2
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    mean, deviation = (torch.tensor(of).reshape(3, 1, 1) for of in IMAGENET)
    theirs = weights.transforms()(Image.fromarray(image)) * deviation + mean
    ours = resize(image, Framing(size=(224, 224), shorter=232))
    difference = ours / np.float32(255) - theirs.numpy().transpose(1, 2, 0)
    assert np.abs(difference).max() < 1.01 / 255


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "resnet50.tv2_in1k"])
def test_the_framing_of_timm(name, tmp_path):
    """Its own transform, by the ``config.json`` that it saves, to one grey level."""
    timm = peer("timm")
    model = timm.create_model(name, layers=DEPTHS, num_classes=5)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    theirs = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    theirs = theirs * np.float32(IMAGENET[1]) + np.float32(IMAGENET[0])
    ours = resize(image, read_weights(tmp_path).size)
    assert np.abs(ours / np.float32(255) - theirs).max() < 1.01 / 255
    config = json.loads((tmp_path / "config.json").read_text())
    for key, wrong, message in (
        ("mean", [0.5, 0.5, 0.4], "with mean .0.5, 0.5, 0.4. and"),
        ("input_size", [3, 224, 160], "images of 224x160"),
        ("crop_pct", 0, "config.json"),
        ("interpolation", "random", "config.json"),
    ):
        changed = {**config["pretrained_cfg"], key: wrong}
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": changed}))
        with pytest.raises(UsageError, match=message):
            read_weights(tmp_path)


def test_another_network_is_named(tmp_path):
    """A ResNet-18 has no layout; a wide one has other shapes; a lost stage is missing."""
    models = peer("torchvision").models
    import torch

    torch.save(models.resnet18(num_classes=5).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="another network"):
        read_weights(tmp_path / "a.pth")
    wide = models.ResNet(models.resnet.Bottleneck, list(DEPTHS), 5, width_per_group=128)
    torch.save(wide.state_dict(), tmp_path / "b.pth")
    with pytest.raises(UsageError, match=r"layer1_0/bn1/mean is \(128,\) in the file"):
        read_weights(tmp_path / "b.pth")
    whole = models.ResNet(models.resnet.Bottleneck, list(DEPTHS), 5).state_dict()
    part = {name: tensor for name, tensor in whole.items() if not name.startswith("layer3")}
    torch.save(part, tmp_path / "c.pth")
    with pytest.raises(UsageError, match="layer3_0/bn1/mean is missing in the file"):
        read_weights(tmp_path / "c.pth")
