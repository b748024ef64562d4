"""Published networks against PyTorch: forward of 1 and 32 images, and a step of fine-tuning.

    python -m benchmarks.backbones
    python -m benchmarks.backbones --networks resnet50 --batches 32

timm, transformers or torchreid build each network with random weights and save them, siamjax reads
that file, and the outputs' mean absolute values are compared first. PyTorch runs eagerly and
compiled, channels last where a network convolves; images are preprocessed by each. A step trains
all parameters and a linear layer by InfoNCE and SGD. Ratios are siamjax's time over that of the
faster PyTorch, in the same round. Needs the extra ``benchmarks``, and ``pip install timm
torchvision transformers``, ``pip install --no-deps torchreid==0.2.5``. insightface's network is
built by ``benchmarks/peers.py``; the face network of face-api has no peer in PyTorch.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.in_turn import Prepared, compare, serve, torch_train_step, write
from benchmarks.peers import (
    CLIP,
    HALF,
    IMAGENET,
    import_torchvision,
    insightface,
    torchreid_osnet,
)

RATE, TEMPERATURE, PER_IDENTITY, FEATURES = 1e-3, 0.1, 4, 128
OURS, PEERS = "siamjax", ("torch", "torch compiled")


def _timm(name: str, **options: Any) -> Any:
    """timm's network without a classifier."""
    import timm

    return timm.create_model(name, num_classes=0, **options)


def _clip() -> Any:
    """The vision tower of CLIP B/16, as OpenAI trained it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPVisionConfig(patch_size=16))


class _Peer(NamedTuple):
    build: Callable[[], Any]
    moments: tuple[tuple[float, ...], tuple[float, ...]]
    size: tuple[int, int] = (224, 224)
    convolves: bool = False
    unit: bool = False  # siamjax gives embeddings of norm 1


NETWORKS = {
    "iresnet50": _Peer(partial(insightface, (3, 4, 14, 3)), HALF, (112, 112), True, True),
    "vit_s16": _Peer(partial(_timm, "vit_small_patch16_224"), HALF),
    "dinov2_s14": _Peer(
        partial(_timm, "vit_small_patch14_dinov2", dynamic_img_size=True), IMAGENET
    ),
    "clip_b16": _Peer(_clip, CLIP, unit=True),
    # As SigLIP was trained; timm's default is the exact GELU.
    "siglip_b16": _Peer(
        partial(_timm, "vit_base_patch16_siglip_224", act_layer="gelu_tanh"), HALF, unit=True
    ),
    "osnet": _Peer(torchreid_osnet, IMAGENET, (256, 128), True),
    "resnet50": _Peer(partial(_timm, "resnet50"), IMAGENET, convolves=True),
}


def _images(network: str, count: int) -> np.ndarray:
    size = NETWORKS[network].size
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def _dense(features: int) -> np.ndarray:
    """The kernel of the new layer."""
    drawn = np.random.default_rng(1).standard_normal((features, FEATURES)) / np.sqrt(features)
    return drawn.astype(np.float32)


def _built(network: str) -> Any:
    import torch

    import_torchvision()  # before whatever stands on it
    torch.manual_seed(0)  # the same weights in every process
    return NETWORKS[network].build().eval()


def save(network: str, folder: Path) -> None:
    """Let the peer save the network's random weights, with its ``config.json`` where it has one."""
    import torch

    model = _built(network)
    if hasattr(model, "pretrained_cfg"):
        from timm.models import save_for_hf

        save_for_hf(model, str(folder), safe_serialization=True)
    elif hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        torch.save(model.state_dict(), folder / _ALONE)


_ALONE = "weights.pt"


def ours(network: str, folder: Path, count: int) -> Prepared:
    """siamjax: embed under jit, and the pmapped step."""
    import jax
    import optax

    from siamjax import losses, use_fast_cpu_kernels
    from siamjax.host_memory import give_memory_back, keep_memory
    from siamjax.metrics import Mean
    from siamjax.models import Projection
    from siamjax.parallel import data_parallel, replicate, shard
    from siamjax.pretrained import read_weights
    from siamjax.training import create_state, forward_labelled, make_train_step

    use_fast_cpu_kernels()
    keep_memory()
    alone = folder / _ALONE
    weights = read_weights(alone if alone.exists() else folder)
    images = _images(network, count)
    variables = replicate(weights.variables)
    embed = jax.jit(weights.network.apply)

    def forward() -> Any:
        give_memory_back()  # as ``shard`` does in a step, and in siamjax's commands
        return jax.block_until_ready(embed(variables, images))

    found = np.asarray(forward())
    tuned = Projection(backbone=weights.network, embedding=FEATURES)

    def loss_fn(params, model_state, batch, key):
        rows, model_state = forward_labelled(tuned, params, model_state, batch, key)
        loss = losses.info_nce(rows, batch["identity"], temperature=TEMPERATURE)
        return Mean.of(*loss), (model_state, {})

    optimizer = optax.sgd(RATE)
    whole = {name: {"backbone": tree} for name, tree in weights.variables.items()}
    whole["params"]["dense"] = {"kernel": _dense(found.shape[1])}
    step = data_parallel(make_train_step(loss_fn, optimizer))
    state = None
    batch = {"image": images, "identity": np.arange(count) // PER_IDENTITY}

    def train() -> float:
        nonlocal state
        if state is None:
            state = replicate(create_state(whole, optimizer, key=jax.random.key(0)))
        state, metrics = step(state, shard(batch))
        return float(metrics["loss"].total / metrics["loss"].count)

    return Prepared({"forward": forward, "step": train}, {"mean": float(np.abs(found).mean())})


def peer(network: str, count: int, *, compiled: bool) -> Prepared:
    """PyTorch: the same, eager or compiled."""
    import torch
    import torch.nn.functional as F

    about = NETWORKS[network]
    layout = torch.channels_last if about.convolves else torch.contiguous_format
    model = _built(network).to(memory_format=layout)
    mean, deviation = (torch.tensor(one).reshape(1, 3, 1, 1) for one in about.moments)
    images = torch.as_tensor(_images(network, count)).permute(0, 3, 1, 2)

    def embed() -> torch.Tensor:
        x = (images.float() / 255 - mean) / deviation
        found = model(x.contiguous(memory_format=layout))
        found = getattr(found, "image_embeds", found)  # of transformers' CLIP
        return F.normalize(found, dim=-1) if about.unit else found

    once = torch.compile(embed) if compiled else embed

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return once()

    found = forward().numpy()
    dense = torch.tensor(_dense(found.shape[1])).requires_grad_()
    identity = torch.arange(count) // PER_IDENTITY
    itself = torch.eye(count, dtype=torch.bool)
    same = (identity[:, None] == identity) & ~itself

    def loss() -> torch.Tensor:
        rows = F.normalize(F.normalize(embed(), dim=-1) @ dense, dim=-1)
        logits = (rows @ rows.T / TEMPERATURE).masked_fill(itself, -torch.inf)
        each = torch.log_softmax(logits, dim=-1).masked_fill(~same, 0.0)
        return -(each.sum(-1) / same.sum(-1)).mean()

    optimizer = torch.optim.SGD([*model.parameters(), dense], lr=RATE)
    train = torch_train_step(loss, optimizer, compiled=compiled)
    return Prepared({"forward": forward, "step": train}, {"mean": float(np.abs(found).mean())})


def main(
    networks: tuple[str, ...] = tuple(NETWORKS),
    batches: tuple[int, ...] = (1, 32),
    rounds: int = 7,
    output: Path = Path("benchmarks/results"),
) -> None:
    """Compare the networks, one after the other; the candidates of each in turn.

    Args:
        networks: which ones.
        batches: numbers of images of the forward pass; a step of fine-tuning has the last.
        rounds: measured turns.
        output: folder for the JSON files, one a network, batch and step.
    """
    table: dict[str, dict[str, float]] = {}
    module = [sys.executable, "-m", "benchmarks.backbones"]
    for network in networks:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([*module, "--save", network, folder], check=True)
            for what, count in [*(("forward", n) for n in batches), ("step", batches[-1])]:
                asked = ["--candidate", network, folder, str(count), what]
                path = output / f"backbones_{network}_{what}_{count}.json"
                print(f"{network}: {what}, {count} images of {NETWORKS[network].size}")
                commands = {name: [*module, *asked, name] for name in (OURS, *PEERS)}
                compare(commands, rounds=rounds, reference=OURS, output=path)
                table[f"{network}, {what}, {count}"] = _compared(path)
    columns = list(next(iter(table.values())))
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(f'{value:.3g}' for value in row.values())} |")
    ratios = [row["ratio"] for row in table.values()]
    print(f"median ratio {statistics.median(ratios):.3f}, largest {max(ratios):.3f}")
    write(output / "backbones.json", {"rounds": rounds}, {"table": table})


def _compared(path: Path) -> dict[str, float]:
    """Median seconds of all, siamjax's over those of the faster peer in its round, and MiB."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    means = [rows[name]["start"]["mean"] for name in (OURS, *PEERS)]
    if not np.allclose(means, means[0], rtol=1e-3):
        raise SystemExit(f"{path}: the outputs differ, their mean absolute values are {means}")
    steps = {name: rows[name]["steps"] for name in (OURS, *PEERS)}
    turns = zip(steps[OURS], *(steps[name] for name in PEERS), strict=True)
    ratio = statistics.median(
        own["wall"] / min(one["wall"] for one in peers) for own, *peers in turns
    )
    return {
        **{f"{name}, s": statistics.median(s["wall"] for s in steps[name]) for name in steps},
        "ratio": ratio,
        **{f"{name}, MiB": max(s["peak_mib"] for s in steps[name]) for name in steps},
    }


def _candidate(network: str, folder: str, count: str, what: str, name: str) -> Prepared:
    prepared = (
        ours(network, Path(folder), int(count))
        if name == OURS
        else peer(network, int(count), compiled=name == PEERS[1])
    )
    prepared.steps[what]()
    return Prepared({"": prepared.steps[what]}, prepared.facts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(lambda: _candidate(*sys.argv[2:]))
    elif sys.argv[1:2] == ["--save"]:
        save(sys.argv[2], Path(sys.argv[3]))
    else:
        import tyro

        tyro.cli(main)
