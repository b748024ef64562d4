"""What runs on a device: every public operator with its float64 value, every experiment's step."""

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from small_experiments import SIDES, batch_of, built

from siamjax import correlation, distances, losses, mining
from siamjax.metrics import monitors
from siamjax.training import create_state, initialize, make_train_step

ROOT = Path(__file__).parent.parent
MODULES = (correlation, distances, losses, mining, monitors)
ON_HOST = {"monitors.collapse_message"}  # words, made of numbers that have left the device
EXPERIMENTS = sorted(p.stem for p in (ROOT / "experiments").glob("[!_]*.py"))


class Case(NamedTuple):
    """A function of arrays alone, and the same by slow NumPy; arrays are float32, int or bool."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    expected: Callable[..., Any]


def public() -> set[str]:
    """``module.function`` of all that is public in the modules, as the modules say it."""
    found = set()
    for module in MODULES:
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            own = (getattr(value, "__module__", None) or "").startswith(module.__name__)
            if own and callable(value) and not isinstance(value, type) and name[0] != "_":
                found.add(f"{module.__name__.rpartition('.')[2]}.{name}")
    return found


def covered() -> set[str]:
    return {name.partition(" ")[0] for name in CASES}


def floating(argument: Any) -> bool:
    return all(np.issubdtype(leaf.dtype, np.floating) for leaf in jax.tree.leaves(argument))


def gradient_of(case: Case, cotangents: Any) -> Callable[..., Any]:
    """Gradients of ``sum(cotangents * function)``, by all arguments that are floating point."""

    def total(*arguments: Any) -> jax.Array:
        parts = jax.tree.map(lambda c, u: jnp.sum(c * u), cotangents, case.function(*arguments))
        return functools.reduce(operator.add, jax.tree.leaves(parts))

    wanted = [place for place, argument in enumerate(case.arguments) if floating(argument)]
    return jax.grad(total, argnums=wanted)


def _semi_hard(distance, positive, other):
    rows = []
    for row, near, wanted in zip(distance, positive, other, strict=True):
        negatives = row[wanted]
        further = negatives[negatives > near]
        fallback = negatives.max() if len(negatives) else np.inf
        rows.append(further.min() if len(further) else fallback)
    return np.array(rows)


def _soft(distance, _, other, temperature=0.05):
    rows = [row[wanted] for row, wanted in zip(distance, other, strict=True)]
    return np.array(
        [-temperature * np.log(np.exp(-r / temperature).sum()) if len(r) else np.inf for r in rows]
    )


def _pairwise(x, y):
    return np.square(x[:, None] - y[None]).sum(-1)


def _cosine(x, y):
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return 1 - (x * y).sum(-1) / lengths


def _negatives_of_batch(anchor, positive, negative, identity, others, weight):
    candidates = np.concatenate([positive, negative])
    differs = identity[:, None] != np.concatenate([identity, others])
    near = np.square(anchor - positive).sum(-1)
    return _semi_hard(_pairwise(anchor, candidates), near, differs & (np.tile(weight, 2) > 0))


def _others_of_batch(rows, identity, weight):
    units = rows / np.linalg.norm(rows, axis=-1, keepdims=True) * (weight > 0)[:, None]
    counted = weight > 0
    other = counted[:, None] & counted & ~np.eye(len(rows), dtype=bool)
    return units @ units.T, other, other & (identity[:, None] == identity)


def _labelled_monitors(rows, identity, weight):
    similarity, other, same = _others_of_batch(rows, identity, weight)
    each = np.broadcast_to(weight[:, None], same.shape)
    nearest = np.where(other, similarity, -np.inf).argmax(1)
    return {
        "distance_same": _mean(1 - similarity, each * same),
        "distance_different": _mean(1 - similarity, each * (other & ~same)),
        **_cloud(rows, weight),
        "batch_recall_at_1": _mean(same[np.arange(len(rows)), nearest], weight * same.any(1)),
    }


def _normxcorr(x, y, **options):
    return np.stack([oracles.normxcorr(*pair, **options) for pair in zip(x, y, strict=True)])


def _neighbourhood(x, y, size=3):
    half = size // 2

    def direction(one, other):
        padded = np.pad(other, ((0, 0), (half, half), (half, half), (0, 0)))
        out = np.zeros((*one.shape, size * size))
        for n, i, j, c, a in np.ndindex(out.shape):
            out[n, i, j, c, a] = one[n, i, j, c] - padded[n, i + a // size, j + a % size, c]
        return out.reshape(*one.shape[:3], -1)

    return np.concatenate([direction(x, y), direction(y, x)], axis=-1)


def _mean(values, weight):
    return (values * weight).sum() / weight.sum()


def _cloud(rows, weight):
    centre = (rows * weight[:, None]).sum(0) / weight.sum()
    return {
        "embedding_norm": _mean(np.linalg.norm(rows, axis=-1), weight),
        "embedding_spread": _mean(np.linalg.norm(rows - centre, axis=-1), weight),
    }


def _pair_monitors(rows, same, weight, logit, margin=1.5):
    distance = np.linalg.norm(np.subtract(*np.split(rows, 2)), axis=-1)
    return {
        "distance_same": _mean(distance, weight * same),
        "distance_different": _mean(distance, weight * ~same),
        **_cloud(rows, np.tile(weight, 2)),
        "active_fraction": _mean(distance < margin, weight * ~same),
        "accuracy": _mean((logit > 0) == same, weight),
    }


def _triplet_monitors(anchor, positive, negative, near, far, weight, margin=0.5, cap=0.8):
    rows, thrice = np.concatenate([anchor, positive, negative]), np.tile(weight, 3)
    hinge = margin + near - far
    return {
        "distance_same": _mean(near, weight),
        "distance_different": _mean(far, weight),
        **_cloud(rows, thrice),
        "embedding_sum": _mean(rows.sum(-1), thrice),
        "embedding_nonzero": _mean((rows != 0).sum(-1), thrice),
        "active_fraction": _mean((hinge > 0) & (hinge < cap), weight),
        "capped_fraction": _mean(hinge >= cap, weight),
    }


def _averages(means):
    return {name: mean.total / mean.count for name, mean in means.items()}


def _cases() -> dict[str, Case]:
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def sigmoid_loss(logit, same):
        return np.log1p(np.exp(np.where(same, -logit, logit)))

    def of_batch(anchor, positive, negative, identity, others, weight):
        batch = {"identity": identity, "negative_identity": others, "weight": weight}
        rows, mine = (anchor, positive, negative), mining.semi_hard_negative
        return mining.negatives_of_batch(mine, distances.squared_euclidean, rows, batch)

    def watched(anchor, positive, negative, near, far, weight):
        rows = anchor, positive, negative
        options = {"margin": 0.5, "cap": 0.8}
        return _averages(monitors.triplet_monitors(rows, near, far, weight, **options))

    def masked(similarity, other, same, where=np.where):
        return similarity, where(other, similarity, 0), where(same, similarity, 0)

    def compared(rows, identity):
        return masked(*mining.others_of_batch(rows, identity, weight), where=jnp.where)

    same = np.array([True, False, True, False, True, False])
    apart = np.array([0.1, 0.3, 0.7, 0.9, 1.2, 2.0], np.float32)
    near, far = np.abs(draw(6)), np.abs(draw(6))
    weight = np.array([1, 1, 0.5, 1, 2, 0], np.float32)
    pair, triplet = (draw(6, 5), draw(6, 5)), (draw(6, 5), draw(6, 5), draw(6, 5))
    identity, others = np.int32([0, 1, 2, 0, 1, 2]), np.int32([3, 4, 3, 4, 0, 1])
    mined = np.abs(draw(6, 9)), np.abs(draw(6)), rng.random((6, 9)) < 0.5
    mined[2][0] = False  # an anchor without a negative
    maps = draw(2, 5, 6, 2), draw(2, 5, 6, 2)
    kernel, bias = draw(2 * 5 * 6, 3) / 8, draw(3)
    params = {"fc1": {"kernel": draw(4, 3), "bias": draw(3)}, "fc2": {"kernel": draw(3, 2)}}

    def penalty(params):
        return 0.5 * (params["fc1"]["kernel"] ** 2).sum() + (params["fc2"]["kernel"] ** 2).sum()

    return {
        "correlation.normxcorr": Case(correlation.normxcorr, maps, _normxcorr),
        "correlation.normxcorr (near columns)": Case(
            lambda x, y: correlation.normxcorr(x, y, patch_size=3, row_search=1, column_search=1),
            maps,
            lambda x, y: _normxcorr(x, y, patch=3, rows=1, columns=1),
        ),
        "correlation.normxcorr_conv": Case(
            lambda *u: correlation.normxcorr_conv(*u, activation=jax.nn.relu),
            (*maps, kernel, bias),
            lambda x, y, kernel, bias: np.maximum(_normxcorr(x, y), 0) @ kernel + bias,
        ),
        "correlation.normxcorr_by_definition": Case(
            correlation.normxcorr_by_definition, (maps[0][0], maps[1][0]), oracles.normxcorr
        ),
        "correlation.cross_input_neighbourhood": Case(
            lambda x, y: correlation.cross_input_neighbourhood(x, y, size=3), maps, _neighbourhood
        ),
        "correlation.cross_input_neighbourhood_conv": Case(
            lambda *u: correlation.cross_input_neighbourhood_conv(
                *u, size=3, activation=jax.nn.relu
            ),
            (*maps, draw(36, 3) / 6, bias),
            lambda x, y, kernel, bias: np.maximum(_neighbourhood(x, y), 0) @ kernel + bias,
        ),
        "distances.safe_sqrt": Case(distances.safe_sqrt, (apart,), np.sqrt),
        "distances.norm": Case(distances.norm, pair[:1], lambda x: np.linalg.norm(x, axis=-1)),
        "distances.unit": Case(
            distances.unit, pair[:1], lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
        ),
        "distances.squared_euclidean": Case(
            distances.squared_euclidean, pair, lambda x, y: np.square(x - y).sum(-1)
        ),
        "distances.euclidean": Case(
            distances.euclidean, pair, lambda x, y: np.linalg.norm(x - y, axis=-1)
        ),
        "distances.cosine": Case(distances.cosine, pair, _cosine),
        "distances.pairwise_squared_euclidean": Case(
            lambda x, y: distances.pairwise_squared_euclidean(x, y, block=4), pair, _pairwise
        ),
        "distances.pairwise_euclidean": Case(
            distances.pairwise_euclidean, pair, lambda x, y: np.sqrt(_pairwise(x, y))
        ),
        "distances.pairwise_cosine": Case(
            distances.pairwise_cosine, pair, lambda x, y: _cosine(x[:, None], y[None])
        ),
        "losses.contrastive": Case(
            lambda d, same: losses.contrastive(d, same, margin=1.5),
            (apart, same),
            lambda d, same: np.array(oracles.contrastive(d, same, 1.5)),
        ),
        "losses.binary_cross_entropy": Case(
            losses.binary_cross_entropy, (3 * draw(6), same), sigmoid_loss
        ),
        "losses.triplet": Case(
            lambda p, n: losses.triplet(p, n, margin=0.5, cap=0.8),
            (near, far),
            lambda p, n: np.clip(0.5 + p - n, 0, 0.8),
        ),
        # Of its weights 0 is a step, at which there is no difference quotient.
        "losses.info_nce": Case(
            lambda rows, identity: losses.info_nce(rows, identity, weight, temperature=0.5),
            (pair[0], identity),
            lambda rows, identity: oracles.info_nce(rows, identity, weight, 0.5),
        ),
        "losses.l2_penalty": Case(
            lambda params: losses.l2_penalty(params, {"fc1": 0.5, "fc2": 1.0}), (params,), penalty
        ),
        "mining.semi_hard_negative": Case(mining.semi_hard_negative, mined, _semi_hard),
        "mining.soft_negative": Case(mining.soft_negative, mined, _soft),
        "mining.negatives_of_batch": Case(
            of_batch, (*triplet, identity, others, weight), _negatives_of_batch
        ),
        "mining.others_of_batch": Case(
            compared,
            (pair[0], identity),
            lambda rows, identity: masked(*_others_of_batch(rows, identity, weight)),
        ),
        "monitors.labelled_monitors": Case(
            lambda rows, identity, weight: _averages(
                monitors.labelled_monitors(rows, identity, weight)
            ),
            (pair[0], identity, weight),
            _labelled_monitors,
        ),
        "monitors.pair_monitors": Case(
            lambda rows, same, weight, logit: _averages(
                monitors.pair_monitors(rows, same, weight, margin=1.5, logit=logit)
            ),
            (draw(12, 5), same, weight, draw(6)),
            _pair_monitors,
        ),
        "monitors.triplet_monitors": Case(
            watched, (*triplet, near, far, weight), _triplet_monitors
        ),
    }


CASES = _cases()

# Whole searches, and gradients of a published network too.
_WHOLE = {"reid_normxcorr": {"fused": True, "column_search": None}}
_WHOLE["finetune_embedding"] = {"frozen": ()}


def experiment_of(name: str, **more: Any) -> tuple[Any, Any, Any]:
    """Network, loss function and optimizer of an experiment, tiny."""
    return built(name, **_WHOLE.get(name, {}), **more)


def step_of(name: str, **more: Any) -> tuple[Callable, Callable[[], Any], dict[str, np.ndarray]]:
    """The train step, what makes its first state, and a batch; nothing is computed here."""
    network, loss_fn, optimizer = experiment_of(name, **more)

    def create() -> Any:
        variables, key = initialize(network, size=SIDES[name], seed=0)
        return create_state(variables, optimizer, key=key)

    return make_train_step(loss_fn, optimizer), create, batch_of(name, 4)
