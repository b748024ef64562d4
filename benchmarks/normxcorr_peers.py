"""normxcorr of 5x5 patches in PyTorch, as one would write it: the peers of the benchmark.

Maps are (batch, channels, height, width) here, as PyTorch's convolutions give them. A form computes
the correlation map, or its ReLU followed by the 1x1 convolution. The kernel's rows are in siamjax's
order (channel, row offset, column); results are (batch, height, width, features).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH, OFFSETS, EPSILON, COUNT = 5, 5, 1e-2, 24

Parts = tuple[Tensor, ...]


class Form(NamedTuple):
    """A way to compute normxcorr.

    Attributes:
        conv: ``(x, y, kernel) -> (batch, height, width, outputs)``.
        map: ``(x, y) ->`` the map's parts as views (batch, height, width, channels, offsets,
            width): one of all row offsets, or one each. None where only ``conv`` differs.
    """

    conv: Callable[[Tensor, Tensor, Tensor], Tensor]
    map: Callable[[Tensor, Tensor], Parts] | None = None


def _standardised(x: Tensor, rows: int) -> Tensor:
    """Patches minus mean, over their standard deviation: (batch, channels, rows, width, 25)."""
    padded = F.pad(x, (2, 2, 2 + rows, 2 + rows))
    patches = padded.unfold(2, PATCH, 1).unfold(3, PATCH, 1).flatten(-2)
    centred = patches - patches.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / COUNT
    return centred / (
        variance.clamp_min(1e-16).sqrt() + EPSILON
    )  # the gradient of sqrt(0) is infinite


def _by_windows(x: Tensor, y: Tensor) -> Tensor:
    """Products of x's patches with 5 rows of y's: (batch, channels, height, width, 5 width)."""
    queries, keys = _standardised(x, 0) / COUNT, _standardised(y, 2)
    window = keys.unfold(2, OFFSETS, 1).permute(0, 1, 2, 5, 3, 4)
    return queries @ window.flatten(3, 4).transpose(-1, -2)


def patches_map(x: Tensor, y: Tensor) -> Parts:
    """One batched product of patches."""
    parts = _by_windows(x, y).unflatten(-1, (OFFSETS, -1))
    return (parts.permute(0, 2, 3, 1, 4, 5),)


def patches_conv(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """One batched product of patches; the map is permuted for the product with the kernel."""
    active = F.relu(_by_windows(x, y))
    return active.permute(0, 2, 3, 1, 4).flatten(3) @ kernel


def channels_conv(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """As ``patches_conv``, but each channel is multiplied by its part of the kernel in place."""
    active = F.relu(_by_windows(x, y))
    by_channel = kernel.view(x.shape[1], -1, kernel.shape[-1])
    return (active.flatten(2, 3) @ by_channel).sum(1).unflatten(1, x.shape[2:])


def _by_rows(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """A batched product for each row offset, (batch, channels, height, width, width)."""
    queries, keys = _standardised(x, 0) / COUNT, _standardised(y, 2)
    for r in range(OFFSETS):
        yield queries @ keys[:, :, r : r + x.shape[2]].transpose(-1, -2)


def rows_map(x: Tensor, y: Tensor) -> Parts:
    """A batched product of patches for each row offset."""
    return tuple(part.permute(0, 2, 3, 1, 4).unsqueeze(4) for part in _by_rows(x, y))


def rows_conv(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """A batched product of patches for each row offset, multiplied at once by its kernel part."""
    kernels = kernel.unflatten(0, (x.shape[1], OFFSETS, -1)).unbind(1)
    return _sum(
        F.relu(part).permute(0, 2, 3, 1, 4).flatten(3) @ own.flatten(0, 1)
        for part, own in zip(_by_rows(x, y), kernels, strict=True)
    )


def _sum(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _statistics(padded: Tensor) -> tuple[Tensor, Tensor]:
    mean = F.avg_pool2d(padded, PATCH, 1)
    square = F.avg_pool2d(padded.square(), PATCH, 1)
    variance = (square - mean.square()) * (PATCH**2 / COUNT)
    return mean, 1 / (variance.clamp_min(1e-16).sqrt() + EPSILON)


def _by_boxes(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Products of shifted maps, separable 5x5 sums: (batch, channels, searched, width, height).

    Rows come last, because they are the longest contiguous axis of what is computed.
    """
    height, width = x.shape[2:]
    x, y = F.pad(x, (2, 2, 2, 2)), F.pad(y, (2, 2, 4, 4))
    (mean_x, scale_x), (mean_y, scale_y) = _statistics(x), _statistics(y)
    mean_x, scale_x = mean_x * PATCH**2, scale_x / COUNT
    turned = (u.transpose(2, 3).contiguous() for u in (x, mean_x, scale_x))
    x, mean_x, scale_x = (u[:, :, None] for u in turned)
    turned = (u.transpose(2, 3).contiguous() for u in (y, mean_y, scale_y))
    y, mean_y, scale_y = (u[:, :, :, None] for u in turned)
    for r in range(OFFSETS):
        rows = y[..., r : r + height + PATCH - 1]
        diagonal = x[:, :, :, :width] * rows[:, :, :width]
        for b in range(1, PATCH):
            diagonal = torch.addcmul(diagonal, x[:, :, :, b : b + width], rows[:, :, b : b + width])
        sums = _sum(diagonal[..., a : a + height] for a in range(PATCH))
        own = slice(r, r + height)
        yield (sums - mean_x * mean_y[..., own]) * (scale_x * scale_y[..., own])


def boxes_map(x: Tensor, y: Tensor) -> Parts:
    """Product maps and box sums."""
    return tuple(part.permute(0, 4, 3, 1, 2).unsqueeze(4) for part in _by_boxes(x, y))


def boxes_conv(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """Product maps and box sums for each row offset, multiplied at once by its kernel part."""
    kernels = kernel.unflatten(0, (x.shape[1], OFFSETS, -1)).unbind(1)
    total = _sum(
        own.flatten(0, 1).T @ F.relu(part).flatten(3).flatten(1, 2)
        for part, own in zip(_by_boxes(x, y), kernels, strict=True)
    )
    return total.unflatten(2, (x.shape[3], x.shape[2])).permute(0, 3, 2, 1)


def guide_conv(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """The layer of the Keras guide of 2018, made to run.

    It loops over channels and positions, takes a slice for each patch, and multiplies each patch of
    x with the slices that it searches. Corrected: where the guide counts slices by rows, the width
    is meant. Padding, epsilon and mean are those of the paper, so that results can be compared.
    """
    batch, channels, height, width = x.shape
    x, y = F.pad(x, (2, 2, 2, 2)), F.pad(y, (2, 2, 4, 4))

    def slices(u: Tensor, c: int, rows: int) -> Tensor:
        patches = [
            u[:, c, i : i + PATCH, j : j + PATCH].reshape(batch, 1, PATCH**2)
            for i in range(rows)
            for j in range(width)
        ]
        stacked = torch.cat(patches, dim=1)
        centred = stacked - stacked.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / COUNT
        return centred / (variance.clamp_min(1e-16).sqrt() + EPSILON)

    blocks = []
    for c in range(channels):
        queries, keys = slices(x, c, height) / COUNT, slices(y, c, height + OFFSETS - 1)
        queries = queries.transpose(1, 2)
        products = []
        for place in range(height * width):
            first = place // width * width
            searched = keys[:, first : first + OFFSETS * width]
            products.append((searched @ queries[:, :, place : place + 1]).squeeze(-1)[:, None])
        blocks.append(torch.cat(products, dim=1).view(batch, height, width, -1))
    return F.relu(torch.cat(blocks, dim=-1)) @ kernel


FORMS = {
    "patches": Form(patches_conv, patches_map),
    "patches by channel": Form(channels_conv),
    "patches by row": Form(rows_conv, rows_map),
    "boxes": Form(boxes_conv, boxes_map),
    "Keras guide's layer, made to run": Form(guide_conv),
}
