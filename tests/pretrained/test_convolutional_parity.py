"""ResNet, IResNet and OSNet against their peers: what these save we read and equal.

insightface and AdaFace are no packages, so their networks are built anew, in PyTorch.
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
from peers import GRADIENTS, OUTPUTS, differences, furthest, peer, redrawn, worst
from PIL import Image

from benchmarks.peers import HALF, IMAGENET, projection, residual_branch, widths_and_strides
from benchmarks.peers import insightface as insightface_network
from siamjax.data.transforms import Framing, resize
from siamjax.errors import UsageError
from siamjax.models import IResNet, OSNet, ResNet, iresnet, osnet, products, resnet
from siamjax.models.normalization import BatchNorm
from siamjax.models.preprocessing import preprocess
from siamjax.models.products import Conv
from siamjax.pretrained import read_weights

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

DEPTHS = (2, 1, 1, 1)
TORCHREID = Path(__file__).parent / "frozen/torchreid_osnet.npz"


def torchvision_resnet(folder):
    models = peer("torchvision").models
    model = redrawn(models.ResNet(models.resnet.Bottleneck, list(DEPTHS), num_classes=5))
    torch = peer("torch")

    torch.save(model.state_dict(), folder / "w.pth")
    model.fc = torch.nn.Identity()
    return model, folder / "w.pth"


def timm_resnet(folder):
    timm = peer("timm")
    model = redrawn(timm.create_model("resnet50", layers=DEPTHS, num_classes=5))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return lambda x: model.forward_head(model.forward_features(x), pre_logits=True), folder


def with_slope(model, slope):
    torch = peer("torch")

    for module in model.modules():
        if isinstance(module, torch.nn.PReLU):
            module.weight.data.fill_(slope)
    return model


def insightface(folder, slope):
    torch = peer("torch")
    model = with_slope(redrawn(insightface_network(DEPTHS)), slope)
    torch.save({f"module.{name}": t for name, t in model.state_dict().items()}, folder / "w.pt")
    return lambda x: torch.nn.functional.normalize(model(x)), folder / "w.pt"


def adaface(folder, slope):
    peer("torch")
    torch = peer("torch")
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
            self.body = Sequential(*(Block(*one) for b in widths_and_strides(DEPTHS) for one in b))
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
    "ResNet, torchvision": (torchvision_resnet, ResNet(DEPTHS), IMAGENET, ((64, 48), (57, 71))),
    "ResNet, timm": (timm_resnet, ResNet(DEPTHS), IMAGENET, ((64, 48), (57, 71))),
}
FACES = ((112, 112), (98, 105))
# Of the millions of values before a PReLU some are so near to 0 that two libraries round them to
# different sides. So gradients are compared where its slope is 1 on both sides, and outputs also
# where it is not.
for slope in (0.5, 1.0):
    arcface = partial(insightface, slope=slope), IResNet(DEPTHS)
    PEERS[f"IResNet, insightface, slope {slope}"] = (*arcface, HALF, FACES)
    adaptive = IResNet(DEPTHS, variant="adaface", preprocessing="bgr_signed")
    adaptive = partial(adaface, slope=slope), adaptive
    PEERS[f"IResNet, AdaFace, slope {slope}"] = (*adaptive, HALF, FACES)


@pytest.mark.parametrize("name", PEERS)
def test_against_the_peer(name, tmp_path, monkeypatch, row):
    build, network, moments, sizes = PEERS[name]
    forward, file = build(tmp_path)
    weights = read_weights(file)
    assert weights.network == network
    # With seed 0 a ReLU's input is so near to 0 that the two round it to different sides.
    outputs, gradients = worst(
        differences(weights.network, weights.variables, forward, size, moments, seed=1)
        for size in sizes
    )
    bent = "0.5" in name
    row("same", name, sizes, outputs, None if bent else gradients)
    assert outputs < OUTPUTS
    assert gradients < GRADIENTS or bent
    if "1.0" not in name:
        see_what_is_wrong(name, weights, sizes[0], monkeypatch, row)


def see_what_is_wrong(name, weights, size, monkeypatch, row):
    """What differs as much as this from the right one, which is the peer's, would be seen."""
    x = np.random.default_rng(2).random((2, *size, 3), np.float32)
    right = jax.jit(weights.network.apply)(weights.variables, x)
    layer = wrong_activation if isinstance(weights.network, IResNet) else wrong_pooling
    for wrong in (wrong_padding, wrong_epsilon, layer):
        with monkeypatch.context() as change:
            wrong(change)
            outputs = jax.jit(weights.network.clone().apply)(weights.variables, x)
        difference = furthest(outputs, right)
        row("wrong", name, wrong.__doc__, difference)
        assert difference > 100 * OUTPUTS, wrong.__name__


def wrong_padding(change):
    """padding SAME of even maps with a stride"""
    same = partial(lambda conv, *args, padding, **rest: conv(*args, padding="SAME", **rest), Conv)
    change.setattr(products, "Conv", same)


def wrong_epsilon(change):
    """batch norm epsilon 1e-3"""
    for module in (resnet, iresnet, osnet):
        change.setattr(module, "BatchNorm", partial(BatchNorm, epsilon=1e-3))


def wrong_pooling(change):
    """pooling with the border of SAME"""
    same = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    for module in (resnet, osnet):
        change.setattr(module, "max_pool_3x3", lambda x, *, border: same(x))


def wrong_activation(change):
    """ReLU for PReLU"""
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

    outputs, gradients = both(weights.variables, x)
    return (
        furthest(outputs, frozen[f"features{number}"]),
        furthest(gradients, frozen[f"gradient{number}"]),
    )


def test_against_torchreid(torchreid, monkeypatch, row):
    assert torchreid[0].network == OSNet()
    assert torchreid[0].size == (256, 128)
    outputs, gradients = worst(from_torchreid(torchreid, number) for number in (0, 1))
    row("same", "OSNet, torchreid", torchreid_osnet.SIZES, outputs, gradients)
    assert outputs < OUTPUTS
    assert gradients < GRADIENTS
    see_what_is_wrong("OSNet, torchreid", torchreid[0], (64, 32), monkeypatch, row)


@pytest.mark.parametrize("size", [(300, 260), (97, 480)])
def test_the_framing_of_torchvision(size, row):
    """Its own transform of the second weights, to one grey level."""
    torch, weights = peer("torch"), peer("torchvision").models.ResNet50_Weights.IMAGENET1K_V2
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    mean, deviation = (torch.tensor(of).reshape(3, 1, 1) for of in IMAGENET)
    theirs = weights.transforms()(Image.fromarray(image)) * deviation + mean
    ours = resize(image, Framing(size=(224, 224), shorter=232))
    grey = float(np.abs(ours - 255 * theirs.numpy().transpose(1, 2, 0)).max())
    row("framing", "ResNet, torchvision", [size], grey)
    assert grey < 1.01


def test_the_framing_of_torchreid(row):
    """Its transform of people to be embedded, put together from torchvision's as torchreid does."""
    transforms, grey = peer("torchvision").transforms, 0.0
    steps = transforms.Resize((256, 128)), transforms.ToTensor(), transforms.Normalize(*IMAGENET)
    shapes = ((160, 60), (301, 197))
    for shape in shapes:
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
        theirs = transforms.Compose(steps)(Image.fromarray(image)).numpy().transpose(1, 2, 0)
        ours = preprocess(jnp.asarray(resize(image, (256, 128))), OSNet().preprocessing)
        grey = max(grey, float(np.abs((ours - theirs) * 255 * np.asarray(IMAGENET[1])).max()))
    row("framing", "OSNet, torchreid", shapes, grey)
    assert grey < 1.01


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "resnet50.tv2_in1k"])
def test_the_framing_of_timm(name, tmp_path, row):
    """Its own transform, by the ``config.json`` that it saves, to one grey level."""
    timm = peer("timm")
    model = timm.create_model(name, layers=DEPTHS, num_classes=5)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    image = np.random.default_rng(0).integers(0, 256, (300, 260, 3), np.uint8)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    theirs = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
    theirs = theirs * np.float32(IMAGENET[1]) + np.float32(IMAGENET[0])
    ours = resize(image, read_weights(tmp_path).size)
    grey = float(np.abs(ours - 255 * theirs).max())
    row("framing", f"{name}, timm", [image.shape[:2]], grey)
    assert grey < 1.01
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
    torch = peer("torch")

    torch.save(models.resnet18(num_classes=5).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UsageError, match="another network"):
        read_weights(tmp_path / "a.pth")
    wide = models.ResNet(models.resnet.Bottleneck, list(DEPTHS), 5, width_per_group=128)
    torch.save(wide.state_dict(), tmp_path / "b.pth")
    with pytest.raises(UsageError, match=r"bn1/mean \(layer1.0.bn1.running_mean\) is \(128,\) in"):
        read_weights(tmp_path / "b.pth")
    whole = models.ResNet(models.resnet.Bottleneck, list(DEPTHS), 5).state_dict()
    part = {name: tensor for name, tensor in whole.items() if not name.startswith("layer3")}
    torch.save(part, tmp_path / "c.pth")
    with pytest.raises(UsageError, match="layer3_0/bn1/mean is missing in the file"):
        read_weights(tmp_path / "c.pth")
