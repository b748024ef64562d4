"""Command that makes a run usable without this project."""

from pathlib import Path


def export(*, run: Path, out: Path, platforms: tuple[str, ...] = ("cpu", "cuda", "tpu")) -> None:
    """Write a run's embedder and pair scorer as serialised StableHLO; loading needs jax alone.

    Args:
        run: folder of a finished run.
        out: folder to make: two .stablehlo files, weights.npz, manifest.json and README.md.
        platforms: what it can run on, of cpu, cuda and tpu.
    """
    from siamjax.inference.export import export_run
    from siamjax.training.finished import Finished

    finished = Finished.open(run)
    embed, score = export_run(finished, out, platforms=platforms)
    print(f"{out}: for {', '.join(platforms)}, any number of images of {finished.size}")
    print(f"read back and compared with the run: embed within {embed:.1e}, score {score:.1e}")
