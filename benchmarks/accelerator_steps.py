"""Times of one function on one device, and whole train steps: siamjax's and PyTorch's.

What :mod:`benchmarks.accelerator` measures, apart from normxcorr.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import lfw_step, normxcorr_step, visual_search_step
from benchmarks.in_turn import torch_train_step
from benchmarks.peers import import_torchvision
from siamjax.training import create_state, dampened_sgd, forward_pairs, make_train_step

# FLOP/s without sparsity and bytes/s of memory, from the data sheets, by what device_kind has.
PEAKS = {
    "H200": {"float32": 67e12, "tf32": 495e12, "bfloat16": 989e12, "bytes": 4.8e12},
    "H100 80GB HBM3": {"float32": 67e12, "tf32": 495e12, "bfloat16": 989e12, "bytes": 3.35e12},
    "H100 PCIe": {"float32": 51e12, "tf32": 378e12, "bfloat16": 756e12, "bytes": 2.0e12},
    "A100-SXM4-80GB": {"float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12, "bytes": 2.04e12},
    "A100-SXM4-40GB": {"float32": 19.5e12, "tf32": 156e12, "bfloat16": 312e12, "bytes": 1.56e12},
}
PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
# Examples a batch.
NETWORKS = {"LFW net": 64, "NormXCorrNet": 64, "VisualSearchNet": 16, "InceptionV3 Siamese": 32}


def timed(step: Callable[[], Any], *, dry: bool) -> dict[str, Any]:
    """Median and least milliseconds of a step that returns when it is done."""
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    taken = []
    for _ in range(0 if dry else 3):
        step()
    while not taken or (not dry and len(taken) < 200 and (len(taken) < 10 or sum(taken) < 0.5)):
        before = time.perf_counter()
        step()
        taken.append(time.perf_counter() - before)
    return {
        "median_ms": 1e3 * statistics.median(taken),
        "least_ms": 1e3 * min(taken),
        "repeats": len(taken),
        "first_seconds": first,
    }


def measured(
    function: Callable,
    arguments: tuple[Any, ...],
    *,
    precision: str,
    products: str,
    dry: bool,
    needed_flops: float | None = None,
) -> dict[str, Any]:
    """A jitted function; its first result, if it is a state, is its next first argument."""
    arguments = jax.block_until_ready(jax.device_put(arguments))
    chained = hasattr(arguments[0], "opt_state")
    started = time.perf_counter()
    with jax.default_matmul_precision(PRECISIONS[precision]):
        lowered = jax.jit(function, donate_argnums=(0,) if chained else ()).lower(*arguments)
        compiled = lowered.compile()
    row: dict[str, Any] = {"compile_seconds": time.perf_counter() - started}

    def step() -> None:
        nonlocal arguments
        out = jax.block_until_ready(compiled(*arguments))
        arguments = (out[0], *arguments[1:]) if chained else arguments

    row |= timed(step, dry=dry)
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    seconds = row["median_ms"] / 1e3
    flops, moved = needed_flops or cost.get("flops"), cost.get("bytes accessed")
    kind = jax.devices()[0].device_kind
    peaks: dict[str, float] = next((peak for name, peak in PEAKS.items() if name in kind), {})
    return row | {
        "products": products,
        "flops": cost.get("flops"),
        "needed_flops": needed_flops,
        "bytes": moved,
        "temporaries_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
        "flop_per_s": flops and flops / seconds,
        "bytes_per_s": moved and moved / seconds,
        "share_of_peak": flops / seconds / peaks[products] if flops and peaks else None,
        "share_of_bandwidth": moved / seconds / peaks["bytes"] if moved and peaks else None,
    }


def network_of(name: str, dtype: Any, *, dry: bool) -> tuple[Any, Callable, Any, tuple[int, int]]:
    """Network, loss function, optimizer and image size, as published, or tiny."""
    from experiments import lfw_contrastive, reid_normxcorr
    from siamjax import losses
    from siamjax.metrics import Mean
    from siamjax.models import DistanceLogitHead, InceptionEmbedding, Siamese, VisualSearchNet

    kind: Any = jnp.dtype(dtype).name
    if name == "LFW net":
        side, width = (16, 1 / 16) if dry else (lfw_step.SIDE, 1.0)
        config = lfw_contrastive.Config(width=width, size=side, dtype=kind)
        network, loss_fn, _ = lfw_contrastive.build(config)
        return network, loss_fn, optax.sgd(lfw_step.RATE, momentum=lfw_step.MOMENTUM), (side, side)
    if name == "NormXCorrNet":
        network, loss_fn, _ = reid_normxcorr.build(reid_normxcorr.Config(fused=False, dtype=kind))
        optimizer = dampened_sgd(0.05, momentum=0.9, weight_decay=5e-4)
        return network, loss_fn, optimizer, (40, 40) if dry else reid_normxcorr.SIZE
    if name == "VisualSearchNet":
        sizes: Any = {"width": 1 / 16, "depth": 1, "hidden": 8, "embedding": 8} if dry else {}
        network = VisualSearchNet(dtype=dtype, **sizes)
        side = 32 if dry else visual_search_step.SIDE
        loss_fn = visual_search_step.loss_function(network)
        return network, loss_fn, optax.sgd(visual_search_step.RATE), (side, side)
    backbone = InceptionEmbedding(end="mixed0" if dry else "mixed10", dtype=dtype)
    network, side = Siamese(backbone=backbone, head=DistanceLogitHead()), 75 if dry else 299

    def inception_loss(params, model_state, batch, key):
        logit, _, model_state = forward_pairs(network, params, model_state, batch, key)
        loss = Mean.of(losses.binary_cross_entropy(logit, batch["same"]))
        return loss, (model_state, {})

    return network, inception_loss, optax.sgd(1e-3), (side, side)


def siamjax_step(name: str, batch: int, precision: str, *, dry: bool) -> dict[str, Any]:
    """The jitted train step, its batch and state on the device."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    network, loss_fn, optimizer, size = network_of(name, dtype, dry=dry)
    rng = np.random.default_rng(0)
    words = ("anchor", "positive", "negative") if name == "VisualSearchNet" else ("x1", "x2")
    shown: dict[str, Any] = {
        word: rng.integers(0, 256, (batch, *size, 3), np.uint8) for word in words
    }
    if "x1" in shown:
        shown["same"] = np.arange(batch) % 2 == 1
    images = [shown[word][:1] for word in words[: 1 if name == "VisualSearchNet" else 2]]

    def draw(path: Any, leaf: Any) -> np.ndarray:  # quicker than to compile every initializer
        field = jax.tree_util.keystr(path[-1:], simple=True)
        if field != "kernel":
            return np.full(leaf.shape, field in ("scale", "var"), leaf.dtype)
        share = np.sqrt(12 / np.prod(leaf.shape[:-1]))
        return np.float32(share) * (rng.random(leaf.shape, np.float32) - np.float32(0.5))

    like = jax.eval_shape(network.init, jax.random.key(0), *images)
    variables: Any = jax.tree_util.tree_map_with_path(draw, like)
    state = create_state(variables, optimizer, key=jax.random.key(1))
    step = make_train_step(loss_fn, optimizer)
    return measured(step, (state, shown), precision=precision, products=precision, dry=dry)


def torch_step(
    name: str, batch: int, precision: str, *, compiled: bool, dry: bool
) -> dict[str, Any]:
    """The same step in PyTorch, eager or with its forward (so its backward too) compiled."""
    import torch

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(kind)
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cudnn.benchmark = True
    started = time.perf_counter()
    if name == "LFW net":
        sizes: Any = {"side": 16, "width": 1 / 16} if dry else {}
        step = lfw_step.torch_step(batch=batch, compiled=compiled, **sizes)
    elif name == "InceptionV3 Siamese":
        step = torch_inception(batch, compiled=compiled)
    elif name == "NormXCorrNet":
        ways, form = [("whole", 0)], "patches"
        last = {"batch": batch, "ways": ways, "compiled": compiled, "channels_last": False}
        step = normxcorr_step.torch_steps(form, **last).steps["whole 0"]
    else:
        last = {"triplets": batch, "compiled": compiled, "channels_last": True}
        step = visual_search_step.torch_step(**last).steps["step"]
    with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
        row = timed(step, dry=dry)  # a step ends with its loss on the host
    del step
    torch.cuda.empty_cache()
    return {"start_seconds": time.perf_counter() - started, **row, "torch": torch.__version__}


def torch_inception(batch: int, *, compiled: bool) -> Callable[[], float]:
    """torchvision's InceptionV3 with the same head, its statistics frozen as here."""
    import torch
    from torch.nn import functional

    network: Any = import_torchvision().models.inception_v3(
        weights=None, aux_logits=False, init_weights=False
    )
    network.fc = torch.nn.Linear(2048, 256, bias=False)
    network.dropout = torch.nn.Identity()
    network.eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (2 * batch, 3, 299, 299), dtype=torch.uint8)
    same = (torch.arange(batch) % 2 == 1).float()

    def forward() -> torch.Tensor:
        first, second = functional.normalize(network(images.float() / 127.5 - 1)).split(batch)
        distance = (first - second).square().sum(1).add(1e-12).sqrt()
        return functional.binary_cross_entropy_with_logits(1 - distance, same)

    return torch_train_step(forward, optimizer, compiled=compiled)
