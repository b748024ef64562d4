"""How the cost of a catalogue grows: 10^4, 10^5 and 10^6 rows, by siamjax, FAISS and LanceDB.

    python -m benchmarks.catalogue_growth
    python -m benchmarks.catalogue_growth --embed    # host memory while embedding, in place of it

Embeddings are random: clusters of about 100 rows, wide in 16 directions; a query is a row that has
moved a little. Every build and every set of queries is a process of its own, one after the other;
memory is its peak. The first query counts from opening on (and compiles, where that is needed);
the others are medians, alone and 100 at a time. The table has CPU time (of all threads), which
other programs disturb less; the JSON file has wall time too. recall@10 is the share of the exact
result. siamjax's exact search and FAISS's flat one must find the same rows.

``--embed`` embeds a table that lists so many small images by a network that costs nothing.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import tyro

EXACT, APPROXIMATE = "siamjax", "siamjax --approximate"
FLAT, IVF = "FAISS flat", "FAISS IVF"
LANCE, LANCE_INDEX = "LanceDB", "LanceDB, IVF_PQ index"
AFTER = {APPROXIMATE: EXACT, LANCE_INDEX: LANCE}  # what each is built on
ENGINES = (EXACT, APPROXIMATE, FLAT, IVF, LANCE, LANCE_INDEX)
TOP, PROBES, QUERIES, ALONE = 10, 32, 100, 20
_BLOCK = 8192

Search = Callable[[np.ndarray], np.ndarray]


def _vectors(folder: Path, rows: int, features: int) -> None:
    """Write ``rows.npy`` and ``queries.npy``."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, rows // 100), features), np.float32)
    wide = rng.standard_normal((16, features), np.float32) / 4
    out = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows, features))
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        block = centres[rng.integers(0, len(centres), count)]
        block += rng.standard_normal((count, 16), np.float32) @ wide
        out[start : start + count] = block + 0.1 * rng.standard_normal(block.shape, np.float32)
    asked = out[np.linspace(0, rows - 1, QUERIES).astype(int)]
    np.save(folder / "queries.npy", asked + 0.1 * rng.standard_normal(asked.shape, np.float32))


def _blocks(folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    rows = np.load(folder / "rows.npy", mmap_mode="r")
    for start in range(0, len(rows), _BLOCK):
        block = np.array(rows[start : start + _BLOCK])
        yield [str(start + number) for number in range(len(block))], block


def _table(folder: Path) -> Any:
    import lancedb

    return lancedb.connect(str(folder / LANCE)).open_table("rows")


def _build(engine: str, folder: Path) -> None:
    features = np.load(folder / "queries.npy").shape[1]
    if engine == EXACT:
        from siamjax.search.index import Index, writing
        from siamjax.search.index_making import Making
        from siamjax.search.index_segment import Item

        index = Index.create(folder / EXACT, fingerprint={}, features=features)
        with writing(index.folder):
            making = Making(index, catalogue="random", attributes=())
            for ids, block in _blocks(folder):
                making.append([Item(one, one, "", "random", {}) for one in ids], block)
            making.commit()
    elif engine == APPROXIMATE:
        _search(engine, folder)(np.load(folder / "queries.npy")[:1])
    elif engine in (FLAT, IVF):
        import faiss

        index: Any = faiss.IndexFlatL2(features)
        rows = np.load(folder / "rows.npy", mmap_mode="r")
        if engine == IVF:
            lists = max(1, min(int(np.sqrt(len(rows))), len(rows) // 39))
            index = faiss.IndexIVFFlat(index, features, lists)
            chosen = np.random.default_rng(0).choice(len(rows), min(len(rows), 50 * lists), False)
            index.train(np.ascontiguousarray(rows[np.sort(chosen)]))
        for _, block in _blocks(folder):
            index.add(block)
        faiss.write_index(index, str(folder / engine))
    elif engine == LANCE:
        import lancedb
        import pyarrow

        vector = pyarrow.list_(pyarrow.float32(), features)
        schema = pyarrow.schema([("id", pyarrow.string()), ("vector", vector)])

        def batches() -> Iterator[Any]:
            for ids, block in _blocks(folder):
                values = pyarrow.FixedSizeListArray.from_arrays(block.ravel(), features)
                yield pyarrow.record_batch([pyarrow.array(ids), values], schema=schema)

        database = lancedb.connect(str(folder / LANCE))
        database.create_table("rows", batches(), schema=schema)
    else:
        _table(folder).create_index(
            metric="l2", vector_column_name="vector", index_type="IVF_PQ", replace=True
        )


def _search(engine: str, folder: Path) -> Search:
    """From queries to the rows of the nearest, as an opened engine finds them."""
    if engine in (EXACT, APPROXIMATE):
        from siamjax import use_fast_cpu_kernels

        use_fast_cpu_kernels()
        from siamjax.search import Index, approximate, nearest

        index = Index.open(folder / EXACT)
        if engine == EXACT:
            return lambda asked: nearest(asked, index, top=TOP).rows
        return lambda asked: approximate(asked, index, top=TOP, probes=PROBES).rows
    if engine in (FLAT, IVF):
        import faiss

        opened: Any = faiss.read_index(str(folder / engine))
        if engine == IVF:
            opened.nprobe = PROBES
        return lambda asked: opened.search(asked, TOP)[1]
    table = _table(folder)

    def found(asked: np.ndarray) -> np.ndarray:
        query = table.search(list(asked) if len(asked) > 1 else asked[0]).select(
            ["id", "_distance"]
        )
        if engine == LANCE_INDEX:
            query = query.nprobes(PROBES).refine_factor(10)
        else:
            query = query.bypass_vector_index()
        told = query.limit(TOP).to_arrow()
        rows = np.array(told["id"].to_pylist(), np.int64)
        if len(asked) > 1:
            rows = rows[np.argsort(told["query_index"].to_numpy(), kind="stable")]
        return rows.reshape(len(asked), TOP)

    return found


def _query(engine: str, folder: Path) -> dict[str, float]:
    asked = np.load(folder / "queries.npy")
    opened: list[Search] = []

    def first() -> None:
        opened.append(_search(engine, folder))
        opened[0](asked[:1])

    told = _timed("first", [first])
    np.save(folder / f"{engine}.found.npy", opened[0](asked))  # compiles, as a first one does
    told |= _timed("one", [lambda n=n: opened[0](asked[n : n + 1]) for n in range(ALONE)])
    return told | _timed("hundred", [lambda: opened[0](asked)] * 3)


def _timed(name: str, calls: list[Callable[[], object]]) -> dict[str, float]:
    """Medians: ``NAME_s``, and ``NAME_cpu_s`` of all threads."""
    walls, cpus = [], []
    for call in calls:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {f"{name}_s": statistics.median(walls), f"{name}_cpu_s": statistics.median(cpus)}


def _embed(rows: int, folder: Path) -> dict[str, float]:
    """Embed a table of so many rows, and say what the host had in memory."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from PIL import Image

    from siamjax.data.open_catalogue import stream_catalogue
    from siamjax.inference.embedder import Embedder
    from siamjax.search.embed_catalogue import embed_catalogue

    class Tiny(nn.Module):
        @nn.compact
        def embed(self, images: Any) -> Any:
            return nn.Dense(16)(images.reshape(len(images), -1).astype(jnp.float32) / 255)

        __call__ = embed

    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3))):
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number}.png")
    with (folder / "items.csv").open("w", encoding="utf-8") as file:
        file.write("id,image,item,category,title\n")
        for number in range(rows):
            title = f"class {number % 37},the title of product {number}"
            file.write(f"product-{number:09d},{number % 100}.png,item-{number // 4},{title}\n")
    network = Tiny()
    variables = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 4, 4, 3), np.uint8))
    embedder = Embedder(network=network, variables=variables, size=4, batch_size=512)
    source = str(folder / "items.csv")

    def update() -> None:
        done = embed_catalogue(
            stream_catalogue(source), embedder, folder / "index", source=source, progress=False
        )
        assert done.added + done.present == rows

    told = {"start_mib": _peak()}
    told |= _timed("embed", [update]) | {"embed_mib": _peak()}
    return told | _timed("again", [update]) | {"again_mib": _peak()}  # all are present


def _peak() -> float:
    """The most memory that this process had, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _alone(*words: object) -> dict[str, float]:
    """What a process of its own answers."""
    command = [sys.executable, "-m", "benchmarks.catalogue_growth", "--part", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _part(what: str, engine: str, folder: Path) -> dict[str, float]:
    if what == "embed":
        return _embed(int(engine), folder)
    if what == "build":
        return {**_timed("build", [lambda: _build(engine, folder)]), "build_mib": _peak()}
    if what == "query":
        return {**_query(engine, folder), "query_mib": _peak()}
    _vectors(folder, int(engine), int(what))
    return {}


def _compared(rows: int, features: int, folder: Path) -> dict[str, dict[str, float]]:
    """Every engine at one size."""
    _alone(features, rows, folder)
    table: dict[str, dict[str, float]] = {}
    for engine in ENGINES:
        table[engine] = _alone("build", engine, folder) | _alone("query", engine, folder)
        found, exact = (np.load(folder / f"{one}.found.npy") for one in (engine, EXACT))
        shared = [len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=True)]
        table[engine]["recall"] = sum(shared) / exact.size
        print(_line(rows, engine, table[engine]), flush=True)
    assert table[FLAT]["recall"] > 0.999, "siamjax's exact search and FAISS's differ"
    return table


def _line(rows: int, engine: str, row: dict[str, float]) -> str:
    cells = [
        f"{rows:,}",
        engine,
        f"{row['build_cpu_s']:.1f} s, {row['build_mib']:,.0f} MiB",
        f"{row['first_cpu_s']:.1f} s",
        f"{1e3 * row['one_cpu_s']:,.3g} ms",
        f"{1e3 * row['hundred_cpu_s']:,.3g} ms",
        f"{row['query_mib']:,.0f} MiB",
        f"{row['recall']:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def main(
    rows: tuple[int, ...] = (10_000, 100_000, 1_000_000),
    features: int = 256,
    embed: bool = False,
    folder: Path | None = None,
    output: Path = Path("benchmarks/results/catalogue_growth.json"),
) -> None:
    """Build and search catalogues of these sizes, or embed them.

    Args:
        rows: numbers of rows.
        features: length of an embedding.
        embed: measure the host's memory while embedding, in place of the engines.
        folder: folder for temporary files (5 kB a row); None: the system's.
        output: JSON file to write.
    """
    if embed:
        print("| rows | at the start | embedding | memory | again, all present | memory |")
    else:
        print(
            "| rows | engine | build | first query | one query | 100 queries | memory | recall@10 |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    content: dict[str, Any] = {"cores": os.cpu_count(), "features": features}
    for count in rows:
        place = Path(tempfile.mkdtemp(dir=folder))
        try:
            if embed:
                row = content[str(count)] = _alone("embed", count, place)
                print(
                    f"| {count:,} | {row['start_mib']:.0f} MiB | {row['embed_cpu_s']:.0f} s | "
                    f"{row['embed_mib']:.0f} MiB | {row['again_cpu_s']:.0f} s | "
                    f"{row['again_mib']:.0f} MiB |",
                    flush=True,
                )
            else:
                content[str(count)] = _compared(count, features, place)
        finally:
            shutil.rmtree(place)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(_part(sys.argv[2], sys.argv[3], Path(cast(str, sys.argv[4])))))
    else:
        tyro.cli(main)
