"""Slow NumPy in float64, written from the papers and not from the code."""

import math

import numpy as np


def euclidean(x, y):
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))


def contrastive(distance, same, margin):
    """Hadsell et al. 2006, equation 4, times 2, with Y = 0 for same."""
    return [d**2 if s else max(0.0, margin - d) ** 2 for d, s in zip(distance, same, strict=True)]


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
