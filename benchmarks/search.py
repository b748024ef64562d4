"""Exact search from the disk against FAISS's IndexFlatL2 in memory, in turn.

    python -m benchmarks.search

Embeddings are random, in clusters. siamjax maps the index's file block by block; FAISS
(``pip install faiss-cpu``) has all of them in memory before the clock starts, which favours it.
Both must find the same rows. "Opened anew" compares every row with its checksum, as the first
search of an opened index does. Then siamjax alone searches ``--large`` rows from the disk once;
memory is the peak of the process.
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

import numpy as np
import tyro

from benchmarks.in_turn import compare, serve

OURS, FAISS = "siamjax, from the disk", "faiss IndexFlatL2, in memory"
OPENED = "siamjax, opened anew"
TOP = 10
_CHUNK = 8192


def _make(folder: Path, rows: int, features: int, dtype: str) -> None:
    """Make an index of random rows."""
    from siamjax.search.index import Index, writing
    from siamjax.search.index_making import Making
    from siamjax.search.index_segment import Item

    rng = np.random.default_rng(0)
    centres = rng.uniform(size=(100, features)).astype(np.float32)
    index = Index.create(folder, fingerprint={}, features=features, dtype=dtype)  # type: ignore[arg-type]
    with writing(folder):
        making = Making(index, catalogue="random", attributes=())
        noise = rng.normal(scale=0.2, size=(_CHUNK, features)).astype(np.float32)
        for start in range(0, rows, _CHUNK):
            count = min(_CHUNK, rows - start)
            chosen = rng.integers(0, len(centres), count)
            # The noise is drawn once and rolled, because drawing it takes longer than all else.
            content = centres[chosen] + np.roll(noise[:count], start // _CHUNK, axis=1)
            ids = [str(start + number) for number in range(count)]
            making.append([Item(one, one, "", "random", {}) for one in ids], content)
        making.commit()


def _queries(folder: Path, count: int) -> np.ndarray:
    from siamjax.search.index import Index

    segment = Index.open(folder).segments[0]
    chosen = np.linspace(0, len(segment) - 1, count).astype(int)
    rows = np.stack([segment.rows(int(row), int(row) + 1)[0] for row in chosen])
    noise = np.random.default_rng(1).normal(scale=0.1, size=rows.shape)
    return (rows + noise).astype(np.float32)


def _candidate(name: str, folder: Path, queries: int) -> Callable[[], Any]:
    asked = _queries(folder, queries)
    if name in (OURS, OPENED):
        from siamjax import use_fast_cpu_kernels

        use_fast_cpu_kernels()
        from siamjax.search.index import Index
        from siamjax.search.nearest import nearest

        index = Index.open(folder)
        found = nearest(asked, index, top=TOP)
        np.save(folder.parent / "ours.npy", found.rows)
        if name == OPENED:
            return lambda: nearest(asked, Index.open(folder), top=TOP)
        return lambda: nearest(asked, index, top=TOP)
    import faiss  # type: ignore[import-not-found]

    flat = faiss.IndexFlatL2(asked.shape[1])
    flat.add(np.load(folder / "segment-0001" / "embeddings.npy", mmap_mode="r"))
    np.save(folder.parent / "faiss.npy", flat.search(asked, TOP)[1])
    return lambda: flat.search(asked, TOP)


def _large(folder: Path, queries: int) -> None:
    """Print seconds of a search (after a first one that compiles) and peak memory."""
    step = _candidate(OURS, folder, queries)
    started = time.perf_counter()
    step()
    wall = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"wall_seconds": wall, "peak_mib": peak}))


def main(
    rows: int = 100_000,
    features: int = 4096,
    queries: int = 100,
    rounds: int = 5,
    large: int = 0,
    folder: Path | None = None,
    output: Path = Path("benchmarks/results/search.json"),
) -> None:
    """Search by siamjax and by FAISS.

    Args:
        rows: rows of the gallery.
        features: length of an embedding.
        queries: queries at a time.
        rounds: measured turns.
        large: rows of the gallery that siamjax searches alone; 0: none.
        folder: folder for the temporary galleries (4 bytes a number); None: the system's.
        output: JSON file to write.
    """
    command = [sys.executable, "-m", "benchmarks.search"]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        index = Path(name) / "index"
        _make(index, rows, features, "float32")
        candidates = {
            which: [*command, "--candidate", which, str(index), str(queries)]
            for which in (OURS, OPENED, FAISS)
        }
        compare(candidates, rounds=rounds, reference=FAISS, output=output)
        ours, theirs = (np.load(Path(name) / f"{which}.npy") for which in ("ours", "faiss"))
        same = float((ours == theirs).mean())
        print(f"share of equal rows at equal places: {same:.4f}")
    content = {**json.loads(output.read_text(encoding="utf-8")), "same": same}
    if large:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            index = Path(name) / "index"
            _make(index, large, features, "float32")
            answer = subprocess.run(
                [*command, "--large", str(index), str(queries)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            content["large"] = {"rows": large, **json.loads(answer.stdout)}
            print(f"{large:,} rows: {content['large']}")
    output.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--candidate"]:
        serve(lambda: _candidate(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    elif sys.argv[1:2] == ["--large"]:
        _large(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        tyro.cli(main)
