"""What a run is opened with: the options of every experiment, and a data set's splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from siamjax.data.images import ImageSet
from siamjax.options import Bounds, Count, Options, Seed, Whole

NonFinite = Literal["stop", "skip"]
"""What to do at a step whose loss or gradient is not finite."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(Options):
    """The options of every experiment, whose own ``Config`` adds to them."""

    run: Path = Path("runs/{experiment}-{data}{seed}")
    """Run folder; {experiment} and {data} are their names, {seed} is -seedN, or
    nothing for 0. An existing run is resumed."""
    start_from: Path | None = None
    """A finished run whose weights a new run starts from. Layers that it lacks
    are new, or as published."""
    seed: Seed = 0
    """Seed of splits, examples, augmentation and initial parameters."""
    batch_size: Count = 32
    """Examples in each step, over all devices."""
    steps: Count = 1000
    """Steps to train. With more, a finished run goes on, or an error says why it cannot."""
    evaluate_every: Count = 100
    """Steps between two validations; each saves a checkpoint."""
    log_every: Count = 20
    """Steps between two rows of metrics."""
    workers: Annotated[int, Bounds(at_least=0, at_most=1024)] = 0
    """Processes that read images; 0: threads of this process."""
    nonfinite: NonFinite = "stop"
    """What to do at a step whose loss or gradient is not finite. A skipped step
    changes no parameter, and is counted."""
    profile: Whole = 0
    """Steps to trace, after the first few, into profile/ in the run's folder."""


class Splits(Protocol):
    """What a run needs to know of a data set's splits."""

    @property
    def images(self) -> ImageSet:
        """All images."""
        ...

    @property
    def protocol(self) -> str:
        """One line, printed with every number: how the splits were made."""
        ...

    @property
    def request(self) -> dict[str, Any]:
        """The options that the splits were made with; the same options give the same splits."""
        ...

    @property
    def trained_on(self) -> Sequence[str]:
        """Identities that training may see."""
        ...

    def fingerprint(self) -> str:
        """The same for equal splits only; a resumed run must have the same."""
        ...
