"""Ranking 200 x 200 images of 160x60 by NormXCorrNet: score_pairs against the network per pair.

    python -m benchmarks.gallery

Weights are random, the images are the embedded pedestrians. The per-pair networks are jitted and
run with 64 pairs a call and, as in a plain loop, with one pair a call. The parts of score_pairs and
the per-pair networks take turns of 256 pairs (or images) each; then ``score_pairs`` ranks all once,
which includes reading and decoding images and writing to disk. On a shared machine, compare CPU
time.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro

from benchmarks.in_turn import compare, serve

UNITS = 256  # pairs (images for the trunk) in a turn
BATCH = 64
SIZE = (160, 60)
MARKET = (3368, 19732)  # queries and gallery of Market-1501
PLAIN, SINGLE, TILE, TRUNK, CORRELATION, HEAD = (
    "plain, 64 pairs a call",
    "plain, a pair a call",
    "score_pairs: a tile",
    "trunk, 64 images",
    "correlation + 1x1",
    "head",
)


def _network() -> tuple[Any, Any]:
    from siamjax import use_fast_cpu_kernels

    use_fast_cpu_kernels()
    import jax
    import numpy as np

    from siamjax.models.normxcorr_net import NormXCorrNet

    network = NormXCorrNet()
    image = np.zeros((1, *SIZE, 3), np.uint8)
    return network, jax.jit(network.init)(jax.random.key(0), image, image)


def _candidate(name: str) -> Callable[[], object]:
    """The function that runs one turn of a candidate."""
    network, variables = _network()
    import jax
    import numpy as np

    from siamjax.inference.tiles import TileScorer

    def apply(method: Any) -> Any:
        return jax.jit(lambda *inputs: network.apply(variables, *inputs, method=method))

    def correlate(module: Any, first: Any, second: Any) -> Any:
        return module.correlation(first, second)

    def head(module: Any, matched: Any) -> Any:
        dense = module.dense(module._summary(matched, module.conv4))
        return module.last(jax.nn.relu(dense))

    images = np.random.default_rng(0).integers(0, 256, (2, BATCH, *SIZE, 3), np.uint8)
    first, second = (np.asarray(apply("embed")(batch)) for batch in images)
    calls = UNITS // BATCH
    if name == TILE:
        scorer = TileScorer(network, variables, dtype=np.dtype(np.float32), symmetric=False)
        queries, gallery = first[:1], np.tile(second, (calls, 1, 1, 1))[:, None]
        return lambda: scorer(queries, gallery)
    if name == SINGLE:
        one = apply("__call__")
        return lambda: [
            one(*images[:, n : n + 1])[0].block_until_ready()
            for _ in range(calls)
            for n in range(BATCH)
        ]
    function, inputs = {
        PLAIN: (apply("__call__"), tuple(images)),
        TRUNK: (apply("embed"), (images[0],)),
        CORRELATION: (apply(correlate), (first, second)),
        HEAD: (apply(head), (np.asarray(apply(correlate)(first, second)),)),
    }[name]
    return lambda: [jax.block_until_ready(function(*inputs)) for _ in range(calls)]


def _whole(side: int) -> dict[str, float]:
    """Seconds a pair and peak memory of the whole ranking, after compilation."""
    network, variables = _network()
    import numpy as np

    from siamjax.data import ReidOptions, load_reid
    from siamjax.inference.cross_input import TILE as TILE_SIDES
    from siamjax.inference.cross_input import score_pairs

    images = load_reid(ReidOptions()).images
    queries, gallery = np.arange(side), np.arange(side, 2 * side)
    with tempfile.TemporaryDirectory() as folder:

        def run(queries: np.ndarray, name: str) -> None:
            output = Path(folder) / f"{name}.npy"
            score_pairs(network, variables, images, queries, gallery, size=SIZE, output=output)

        one_tile = -(-side // -(-side // TILE_SIDES[0]))
        run(queries[:one_tile], "compiled")
        wall, cpu = time.perf_counter(), time.process_time()
        run(queries, "measured")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall / side**2, "cpu": cpu / side**2, "peak_mib": peak}


def main(
    rounds: int = 5, side: int = 200, output: Path = Path("benchmarks/results/gallery.json")
) -> None:
    """Rank by score_pairs and by the network per pair.

    Args:
        rounds: measured turns.
        side: number of queries and of gallery images; at most 256, so that all tiles are alike.
        output: JSON file to write.
    """
    command = [sys.executable, "-m", "benchmarks.gallery"]
    names = (PLAIN, SINGLE, TILE, TRUNK, CORRELATION, HEAD)
    print(f"{UNITS} pairs (images for the trunk) a turn:")
    candidates = {name: [*command, "--candidate", name] for name in names}
    table = compare(candidates, rounds=rounds, reference=PLAIN, output=output)
    answer = subprocess.run(
        [*command, "--whole", str(side)], stdout=subprocess.PIPE, text=True, check=True
    )
    whole = json.loads(answer.stdout)
    summary = _summary(table, whole, side)
    print(f"\n{'':34}{'wall':>12}{'CPU':>12}")
    for name, values in summary.items():
        print(f"{name:34}" + "".join(f"{values[kind]:12.3f}" for kind in ("wall", "cpu")))
    print(f"peak memory: {whole['peak_mib']:.0f} MiB")
    content = json.loads(output.read_text(encoding="utf-8"))
    output.write_text(
        json.dumps({**content, "whole": whole, "summary": summary}, indent=1), encoding="utf-8"
    )


def _summary(
    table: dict[str, dict[str, float]], whole: dict[str, float], side: int
) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for kind in ("wall", "cpu"):
        each = {name: row[f"{kind}_seconds"] / UNITS for name, row in table.items()}
        trunk = each[TRUNK] * 2 / side  # images a pair
        queries, gallery = MARKET
        market = queries * gallery * each[TILE] + (queries + gallery) * each[TRUNK]
        values = {
            f"{PLAIN}: pairs/s": 1 / each[PLAIN],
            f"{SINGLE}: pairs/s": 1 / each[SINGLE],
            f"score_pairs {side} x {side}: pairs/s": 1 / whole[kind],
            "times as fast as 64 pairs a call": each[PLAIN] / whole[kind],
            "times as fast as a pair a call": each[SINGLE] / whole[kind],
            "trunk, ms an image": 1e3 * each[TRUNK],
            "trunk, ms a pair": 1e3 * trunk,
            "correlation + 1x1, ms a pair": 1e3 * each[CORRELATION],
            "head, ms a pair": 1e3 * each[HEAD],
            "correlation + head in a tile, ms": 1e3 * each[TILE],
            "score_pairs, ms a pair": 1e3 * whole[kind],
            f"Market {queries} x {gallery}, hours": market / 3600,
        }
        for name, value in values.items():
            rows.setdefault(name, {})[kind] = value
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(lambda: _candidate(sys.argv[2]))
    elif sys.argv[1:2] == ["--whole"]:
        print(json.dumps(_whole(int(sys.argv[2]))))
    else:
        tyro.cli(main)
