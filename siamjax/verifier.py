"""Use a finished run: verify two pictures, or evaluate it on other pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from siamjax.data.faces import leaked
from siamjax.data.images import Files, ImageSet
from siamjax.data.pairs import PairList
from siamjax.errors import UsageError
from siamjax.metrics import verification
from siamjax.models.siamese import Siamese
from siamjax.scoring import PairScorer, pixel_scores
from siamjax.training import run as runs
from siamjax.training.checkpoints import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """A trained network with everything that belongs to it: size, threshold, training people.

    Attributes:
        scorer: the network and its preprocessing.
        variables: parameters and batch statistics.
        manifest: the run's manifest.
    """

    scorer: PairScorer
    variables: Any
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, *, step: int | None = None) -> "Verifier":
        """Load a run's best checkpoint, or that of ``step``; ``UsageError`` if it has none."""
        manifest = runs.read_json(folder / "manifest.json")
        network = cast(Siamese, runs.build_module(manifest["network"]))
        size = manifest["size"]
        picture = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
        like = jax.eval_shape(network.init, jax.random.key(0), picture, picture)
        checkpoints = Checkpoints(folder / "checkpoints", best=runs.BEST_METRIC)
        try:
            step = manifest["step"] if step is None else step
            if step not in checkpoints.steps():
                raise UsageError(
                    f"{folder} holds no checkpoint of step {step}; it has {checkpoints.steps()}"
                )
            variables = checkpoints.variables(step, like)
        finally:
            checkpoints.close()
        return cls(scorer=PairScorer(network, size=size), variables=variables, manifest=manifest)

    @property
    def threshold(self) -> float:
        """In the unit of the head's value."""
        return self.manifest["threshold"]

    @property
    def measure(self) -> str:
        """What the head's value is: ``distance`` or ``logit``."""
        return self.scorer.network.head.measure

    def compare(self, first: Path, second: Path) -> tuple[float, bool]:
        """The head's value for two picture files, and whether they show the same identity."""
        images = ImageSet(
            name="files",
            credit="",
            keys=(str(first), str(second)),
            identities=np.array(["", ""]),
            source=Files((first, second)),
        )
        pair = PairList(
            name="files", first=np.array([0]), second=np.array([1]), same=np.array([True])
        )
        values = self.scorer.values(self.variables, images, pair)
        limit = np.array([self.threshold])
        accepted = self.scorer.scores(values) >= self.scorer.scores(limit)
        return float(values[0]), bool(accepted[0])

    def evaluate(
        self, images: ImageSet, pairs: PairList
    ) -> tuple[dict[str, dict[str, float | None]], str]:
        """Results of the network and of raw pixels by name, and a sentence on leaks.

        The network's threshold is the run's own. Raw pixels have none for these pairs, so their
        accuracy is that of the best threshold *on them*: an upper bound, and named so.
        """
        score = self.scorer.scores(self.scorer.values(self.variables, images, pairs))
        limit = float(self.scorer.scores(np.array([self.threshold]))[0])
        pixels = pixel_scores(images, pairs)
        best, _ = verification.best_threshold(pixels, pairs.same)
        results = {
            "network": verification.summary(score, pairs.same, threshold=limit, fold=pairs.fold),
            "raw pixels 32x32 (best threshold)": verification.summary(
                pixels, pairs.same, threshold=best, fold=pairs.fold
            ),
        }
        # By name, whatever the set is called: LFW's alignments show the same people.
        count = int(leaked(images, pairs, self.manifest["trained_on"]).sum())
        if not self.manifest["trained_on"]:
            return results, "trained on lists without identities: leaks cannot be checked"
        sentence = (
            f"{count:,} of {len(pairs):,} pairs show someone whose name is in the training set"
        )
        return results, f"CONTAMINATED: {sentence}" if count else sentence
