"""The options of the operator, and their bounds."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

from jax import Array
from jax.core import Tracer

from siamjax.errors import UsageError
from siamjax.options import Bounds, Whole, plain

Gradient = Literal["exact", "paper"]
Reduction = Literal["mean", "sum"]

# A patch of one value correlates with nothing, so it has two values at least in each direction.
_Side = Annotated[int, Bounds(at_least=3, at_most=2**15 - 1)]
_Epsilon = Annotated[float, Bounds(at_least=0)]


class Options(NamedTuple):
    """The options of the operator, which are static under ``jax.jit``.

    Attributes:
        patch: side of the patches, odd.
        rows: offsets -rows..rows are searched.
        columns: offsets -columns..columns are searched; None: every column of the map.
        epsilon: added to every standard deviation.
        ddof: taken from the number of entries, in the standard deviation and in the mean.
        mean: divide by (patch^2 - ddof); else the plain sum.
        paper_gradient: use the backward pass of the released code.
        activation: elementwise function of the correlation, or None.
    """

    patch: int
    rows: int
    columns: int | None
    epsilon: float
    ddof: int
    mean: bool
    paper_gradient: bool
    activation: Callable[[Array], Array] | None = None

    @property
    def offsets(self) -> int:
        """Number of row offsets."""
        return 2 * self.rows + 1

    @property
    def count(self) -> int:
        """Divisor of the variance."""
        return self.patch**2 - self.ddof

    @property
    def unit(self) -> float:
        """Factor of the sum of products: 1 / count for a mean."""
        return 1.0 / self.count if self.mean else 1.0

    def searched(self, width: int) -> int:
        """Number of columns that each patch is compared with."""
        return width if self.columns is None else 2 * self.columns + 1

    def features(self, shape: tuple[int, ...]) -> int:
        """Number of features of the map, from the shape of x."""
        return shape[-1] * self.offsets * self.searched(shape[-2])


def options_of(
    *,
    patch_size: int,
    row_search: int,
    column_search: int | None,
    epsilon: float,
    ddof: int,
    reduction: Reduction,
    gradient: Gradient = "exact",
) -> Options:
    """The arguments of :func:`siamjax.correlation.normxcorr`; ``UsageError`` for what cannot be."""
    given = dict(locals())
    for name, value in given.items():
        if isinstance(value, Tracer):
            raise UsageError(f"{name} is traced; make it a static argument of jit, or a constant")
    patch = plain("patch_size", patch_size, _Side)
    if patch % 2 == 0:
        raise UsageError(f"patch_size {patch}: use an odd size, so that a patch has a centre")
    entries = Annotated[int, Bounds(at_least=0, below=patch**2)]
    return Options(
        patch=patch,
        rows=plain("row_search", row_search, Whole),
        columns=plain("column_search", column_search, Whole | None),
        epsilon=plain("epsilon", epsilon, _Epsilon),
        ddof=plain("ddof", ddof, entries),
        mean=plain("reduction", reduction, Reduction) == "mean",
        paper_gradient=plain("gradient", gradient, Gradient) == "paper",
    )
