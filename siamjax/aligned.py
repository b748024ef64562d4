"""Tables as text for a terminal, and numbers as all tables show them."""

from collections.abc import Sequence

from siamjax.errors import shown


def text_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Aligned text: the columns' titles, and for each row its name and its cells."""
    lines = [["", *columns], *([shown(name), *cells] for name, cells in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def measured(
    value: float | None, interval: Sequence[float] | None, *, missing: str = "not measurable"
) -> str:
    """A measure as text: a count whole, a rate with its interval behind it, if that is known."""
    if value is None:
        return missing
    if isinstance(value, int):
        return f"{value:,}"
    behind = "" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    return f"{value:.4f}{behind}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours as people say them: ``55 s``, ``3.7 min``, ``2.1 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 99.95 * 60 else f"{seconds / 3600:.1f} h"


def size_on_disk(count: float) -> str:
    """Bytes as ``512 B``, ``71 MB``, ``1.4 GB``, in powers of 1000 as disks are sold."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while count >= 999.5 and unit != "TB":
        count, unit = count / 1000, next(units)
    return f"{count:.1f} {unit}" if count < 9.95 and unit != "B" else f"{count:.0f} {unit}"
