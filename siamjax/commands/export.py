"""The command that exports a run for use without this project."""

from pathlib import Path

from siamjax.commands.arguments import Trust, UsedRun
from siamjax.commands.output import Answer, answers


@answers
def export(
    *,
    run: UsedRun,
    out: Path,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    trust: Trust = (),
) -> Answer:
    """Export a run's embedder and pair scorer as serialised StableHLO, which needs only jax.

    Args:
        out: New folder for two .stablehlo files, model.safetensors, manifest.json and a model
            card, README.md. Commands take it as a run.
        platforms: Where the export can run: any of cpu, cuda and tpu.
    """
    from siamjax.data.transforms import sides
    from siamjax.inference.export import export_run
    from siamjax.training.finished import Finished

    finished = Finished.open(run, trust=trust)
    embed, score = export_run(finished, out, platforms=platforms)
    height, width = sides(finished.size)
    values = {
        "run": run,
        "out": out,
        "platforms": platforms,
        "size": [height, width],
        "difference": {"embed": embed, "score": score},
    }
    text = [
        f"{out}: for {', '.join(platforms)}; any number of images of {height}x{width}",
        f"difference from the run, when read back: embed {embed:.1e}, score {score:.1e}",
        f"how to load it with JAX alone: {out / 'README.md'}",
    ]
    return Answer(values=values, text=text)
