"""Slow NumPy in float64, written from the papers and not from the code."""

import math

import numpy as np
from scipy import special


def euclidean(x, y):
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))


def contrastive(distance, same, margin):
    """Hadsell et al. 2006, equation 4, times 2, with Y = 0 for same."""
    return [d**2 if s else max(0.0, margin - d) ** 2 for d, s in zip(distance, same, strict=True)]


def info_nce(rows, identity, weight, temperature):
    """Khosla et al. 2020, equation 2: (losses, weights), anchor by anchor and term by term."""
    rows = [np.asarray(row, np.float64) for row in rows]
    units = [row / (math.sqrt(row @ row) or 1.0) for row in rows]
    losses, weights = [], []
    for i, anchor in enumerate(units):
        others = [a for a in range(len(units)) if a != i and weight[a] > 0]
        positives = [p for p in others if identity[p] == identity[i]]
        if not positives or not weight[i] > 0:
            losses.append(0.0)
            weights.append(0.0)
            continue
        below = sum(math.exp(anchor @ units[a] / temperature) for a in others)
        terms = [math.log(math.exp(anchor @ units[p] / temperature) / below) for p in positives]
        losses.append(-sum(terms) / len(positives))
        weights.append(float(weight[i]))
    return np.array(losses), np.array(weights)


def auc(score, same):
    """Share of (same, different) couples in the right order, ties as one half."""
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, s in zip(score, same, strict=True)
        if s
        for n, t in zip(score, same, strict=True)
        if not t
    ]
    return sum(wins) / len(wins)


def batch_norm(x, weight, scale, bias, epsilon):
    """Normalise by the examples of weight > 0, each as often as its weight."""
    x = np.asarray(x, np.float64)
    out = np.empty_like(x)
    for channel in range(x.shape[-1]):
        values, weights = [], []
        for example, w in zip(x[..., channel], weight, strict=True):
            values += list(example.ravel())
            weights += [w] * example.size
        values, weights = np.array(values), np.array(weights, np.float64)
        mean = (weights * values).sum() / weights.sum()
        variance = (weights * (values - mean) ** 2).sum() / weights.sum()
        normal = (x[..., channel] - mean) / math.sqrt(variance + epsilon)
        out[..., channel] = scale[channel] * normal + bias[channel]
    return out


def normxcorr(x, y, *, patch=5, rows=2, columns=None, epsilon=1e-2, ddof=1, mean=True):
    """Subramaniam et al. 2016, section 3.1, patch by patch; (height, width, features)."""
    height, width, channels = x.shape
    half, reach = patch // 2, columns or 0
    padded_x = np.pad(np.asarray(x, np.float64), ((half, half), (half, half), (0, 0)))
    margin = ((half + rows,) * 2, (half + reach,) * 2, (0, 0))
    padded_y = np.pad(np.asarray(y, np.float64), margin)
    searched = width if columns is None else 2 * columns + 1
    out = np.zeros((height, width, channels, 2 * rows + 1, searched))
    count = patch**2 - ddof
    for i, j, c, r, k in np.ndindex(out.shape):
        p = padded_x[i : i + patch, j : j + patch, c]
        column = k if columns is None else j + k
        q = padded_y[i + r : i + r + patch, column : column + patch, c]
        if np.ptp(p) == 0 or np.ptp(q) == 0:
            continue
        p, q = p - p.mean(), q - q.mean()
        deviations = [math.sqrt((u * u).sum() / count) + epsilon for u in (p, q)]
        out[i, j, c, r, k] = (p * q).sum() / (deviations[0] * deviations[1])
    out /= count if mean else 1
    return out.reshape(height, width, -1)


def normxcorr_gradient(x, y, cotangent, *, patch=5, rows=2, epsilon=1e-2, paper=False):
    """Gradients of sum(cotangent * normxcorr), patch by patch, exact or of the released code."""
    height, width, channels = x.shape
    half, count = patch // 2, patch**2 - 1
    x = np.pad(np.asarray(x, np.float64), ((half, half), (half, half), (0, 0)))
    y = np.pad(np.asarray(y, np.float64), ((half + rows,) * 2, (half, half), (0, 0)))
    dx, dy = np.zeros_like(x), np.zeros_like(y)
    cotangent = cotangent.reshape(height, width, channels, 2 * rows + 1, width)
    for i, j, c, r, k in np.ndindex(cotangent.shape):
        at_x = np.s_[i : i + patch, j : j + patch, c]
        at_y = np.s_[i + r : i + r + patch, k : k + patch, c]
        p, q = x[at_x] - x[at_x].mean(), y[at_y] - y[at_y].mean()
        s, t = math.sqrt((p * p).sum() / count), math.sqrt((q * q).sum() / count)
        value = (p * q).sum() / (count * (s + epsilon) * (t + epsilon))
        for total, at, own, other, deviation, others in (
            (dx, at_x, p, q, s, t),
            (dy, at_y, q, p, t, s),
        ):
            below = deviation + epsilon if paper else max(deviation, 1e-300)
            gradient = other / (others + epsilon) - value * own / below
            total[at] += cotangent[i, j, c, r, k] * gradient / (count * (deviation + epsilon))
    inner = np.s_[half + rows : half + rows + height, half : half + width]
    return dx[half : half + height, half : half + width], dy[inner]


def squared_distances(x, y):
    """Every squared distance from differences, each difference in float64, summed exactly."""
    rows = [[[float(a) - float(b) for a, b in zip(p, q, strict=True)] for q in y] for p in x]
    return np.array([[math.fsum(d * d for d in differences) for differences in r] for r in rows])


def few_people_interval(draws, people):
    """Bootstrap quantiles widened from z to t of K - 1, and by sqrt(K / (K - 1)).

    Hesterberg, *What teachers should know about the bootstrap*, 2015, section 4.1.3.
    """
    tail = special.ndtr(special.stdtrit(people - 1, 0.025) * np.sqrt(people / (people - 1)))
    return np.quantile(draws, [tail, 1 - tail])


def without_each_person(wrong, first, second):
    """Error rates after leaving out one person and all comparisons that show him."""
    people = sorted({*first.tolist(), *second.tolist()})
    return np.array([wrong[(first != who) & (second != who)].mean() for who in people])


def vertex_sample(score, same, first, second, weight):
    """The pairs of one sample of people, each as often as its people were drawn together."""
    score, same, first, second = (np.asarray(x).tolist() for x in (score, same, first, second))
    drawn = []
    for s, t, a, b in zip(score, same, first, second, strict=True):
        drawn += [(s, t)] * (weight[a] if t else weight[a] * weight[b])
    return np.array([s for s, _ in drawn]), np.array([t for _, t in drawn], bool)
