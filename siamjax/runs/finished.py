"""The end of a run, and its use afterwards: manifest and report, network and best variables."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import numpy as np
from matplotlib.figure import Figure

from siamjax.data.images import ImageSet
from siamjax.data.transforms import Size, sides
from siamjax.errors import UsageError
from siamjax.files import write_json
from siamjax.report import figures
from siamjax.report.page import text_table, write_page
from siamjax.runs import folder as runs
from siamjax.training.checkpoints import Checkpoints

Results = dict[str, dict[str, float | None]]
"""Measures by name, by what was measured: the network and the baselines."""

Table = tuple[list[str], list[tuple[str, list[str]]]]


_IN_TABLE = ("results", "by_category")  # of the manifest, what the report's table shows


class Kind(NamedTuple):
    """What a run of a kind is judged by, and how it is used.

    Attributes:
        best: metric that the best checkpoint is best by; the higher the better.
        pictures: how many pictures its network is called with.
        commands: of ``python -m siamjax`` that take it.
    """

    best: str
    pictures: int
    commands: str


KINDS = {
    "verifier": Kind("validation_auc", 2, "verify and evaluate"),
    "matcher": Kind("validation_map", 2, "rank"),
    "embedder": Kind("validation_recall_at_1", 1, "embed, search and inspect"),
}


class Splits(Protocol):
    """What every data set's splits say of themselves."""

    @property
    def images(self) -> ImageSet:
        """All pictures."""
        ...

    @property
    def protocol(self) -> str:
        """One line for every number."""
        ...

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for; asking again gives the same splits."""
        ...


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that can be used.

    Attributes:
        folder: the run's.
        manifest: what was written when it was judged.
        network: as it was trained.
        variables: parameters and statistics of the best checkpoint.
        size: (height, width) of its pictures.
    """

    folder: Path
    manifest: dict[str, Any]
    network: nn.Module
    variables: Any
    size: tuple[int, int]

    @classmethod
    def open(cls, folder: Path, *, kind: str | None = None) -> "Finished":
        """Load a finished run's best checkpoint, the one that its manifest was written for.

        ``kind`` None takes a run of any. Raises ``UsageError`` for a run of another kind, and if
        that checkpoint cannot be read: no other would fit the manifest's results.
        """
        manifest = runs.read_json(folder / "manifest.json")
        try:
            own, description, size = (manifest[name] for name in ("kind", "network", "size"))
        except KeyError as error:
            raise UsageError(f"{folder / 'manifest.json'} lacks {error}") from None
        if own not in KINDS:
            raise UsageError(f"{folder} is a run of kind {own!r}, known are {', '.join(KINDS)}")
        if kind not in (None, own):
            use = f"; use it with {KINDS[own].commands}"
            raise UsageError(f"{folder} is a run of kind {own}, one of kind {kind} is needed{use}")
        network = runs.build_module(description)
        size = sides(size if isinstance(size, int) else tuple(size))
        picture = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
        pictures = [picture] * KINDS[own].pictures
        like = jax.eval_shape(network.init, jax.random.key(0), *pictures)
        checkpoints = Checkpoints(folder / "checkpoints", best=KINDS[own].best)
        try:
            step, variables, messages = checkpoints.load_best(like)
        finally:
            checkpoints.close()
        if step != manifest["step"]:
            raise UsageError(
                f"{folder}: the checkpoint of step {manifest['step']} is gone or damaged "
                f"({'; '.join([*checkpoints.messages, *messages]) or 'not found'}); run the "
                "experiment's command again to judge what is left"
            )
        return cls(
            folder=folder, manifest=manifest, network=network, variables=variables, size=size
        )


def conclude(
    run: Path,
    *,
    kind: str,
    network: nn.Module,
    variables: Any,
    step: int,
    size: Size,
    splits: Splits,
    trained_on: Sequence[str],
    config: dict[str, Any],
    results: Results,
    table: Table,
    remark: str,
    pictures: Sequence[tuple[str, Figure]],
    facts: dict[str, Any] | None = None,
) -> Results:
    """Write the manifest and the report of a judged run, and print its table.

    ``facts`` are added to the manifest: what only this kind of run has. Returns ``results``.
    """
    images = splits.images
    manifest = {
        "kind": kind,
        "network": runs.describe_module(network),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "size": list(sides(size)),
        "step": step,
        **(facts or {}),
        "data": images.name,
        "data_credit": images.credit,
        "data_sha256": images.checksum(),
        "protocol": splits.protocol,
        "trained_on": list(trained_on),
        "results": results,
        "config": config,
        "splits": splits.request,
        "sessions": runs.sessions(run),
        "judged": runs.environment(),
    }
    write_json(run / "manifest.json", manifest)
    write_page(
        run / "report.html",
        title=f"{run.name} on {images.name}",
        protocol=splits.protocol,
        table=table,
        remark=remark,
        pictures=[(name, figures.as_png(figure)) for name, figure in pictures],
        manifest={
            **{name: value for name, value in manifest.items() if name not in _IN_TABLE},
            "trained_on": f"{len(trained_on)} identities",
        },
    )
    print(splits.protocol)
    print(text_table(*table))
    print(remark)
    print(f"report: {run / 'report.html'}")
    return results
