import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.test_util import check_grads

from siamjax import losses, mining
from siamjax.distances import euclidean
from siamjax.errors import UsageError
from siamjax.metrics import Mean
from siamjax.parallel import data_parallel, gather_over_devices, replicate, shard
from siamjax.training import create_state, make_train_step


def test_contrastive_by_hand():
    # same at 0.5: 0.25; different at 0.5 of margin 2: (2 - 0.5)^2 = 2.25; different at 3: 0
    got = losses.contrastive(
        jnp.array([0.5, 0.5, 3.0]), jnp.array([True, False, False]), margin=2.0
    )
    np.testing.assert_allclose(got, [0.25, 2.25, 0.0])


def test_contrastive_against_oracle(rng):
    distance, same = rng.uniform(0, 3, 50), rng.random(50) < 0.5
    got = losses.contrastive(jnp.asarray(distance), jnp.asarray(same), margin=1.3)
    np.testing.assert_allclose(got, oracles.contrastive(distance, same, 1.3), rtol=1e-5, atol=1e-7)


def test_same_means_similar():
    """True pulls together: the loss grows with the distance; False pushes apart."""
    grow = jax.grad(lambda d, s: losses.contrastive(d, s))
    assert grow(0.5, jnp.array(True)) > 0
    assert grow(0.5, jnp.array(False)) < 0
    logit = jax.grad(lambda z, s: losses.binary_cross_entropy(z, s))
    assert logit(0.0, jnp.array(True)) < 0
    assert logit(0.0, jnp.array(False)) > 0


def test_gradient_is_finite_for_equal_embeddings():
    x = jnp.ones((2, 3))
    same = jnp.array([True, False])
    gradient = jax.grad(lambda a: losses.contrastive(euclidean(a, x), same).sum())(x)
    np.testing.assert_array_equal(gradient, 0.0)


def test_binary_cross_entropy_by_hand_and_far_out():
    # P = 3/4 at logit log 3
    got = losses.binary_cross_entropy(jnp.log(jnp.array([3.0, 3.0])), jnp.array([True, False]))
    np.testing.assert_allclose(got, [np.log(4 / 3), np.log(4.0)], rtol=1e-6)
    far = losses.binary_cross_entropy(jnp.array([-1e4, 1e4]), jnp.array([True, False]))
    np.testing.assert_allclose(far, 1e4)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_transforms(transform):
    distance, same = jnp.array([0.2, 0.4]), jnp.array([True, False])
    np.testing.assert_allclose(
        transform(losses.contrastive)(distance, same), losses.contrastive(distance, same), rtol=1e-6
    )


def test_triplet_by_hand():
    # 1 + 0.5 - 2 < 0; 1 + 2 - 0.5 = 2.5; 1 + 5 - 0 = 6, capped at 4
    positive, negative = jnp.array([0.5, 2.0, 5.0]), jnp.array([2.0, 0.5, 0.0])
    np.testing.assert_allclose(losses.triplet(positive, negative, margin=1.0), [0, 2.5, 6])
    got = losses.triplet(positive, negative, margin=1.0, cap=4.0)
    np.testing.assert_allclose(got, [0, 2.5, 4])
    grow = jax.grad(lambda p, n: losses.triplet(p, n, margin=1.0, cap=4.0), argnums=(0, 1))
    assert grow(2.0, 0.5) == (1.0, -1.0)
    assert grow(5.0, 0.0) == (0.0, 0.0)  # beyond the cap


def test_l2_penalty_by_hand():
    """0.5 (1 + 4) + 2 (9 + 16) of the kernels named; biases and the third layer are left alone."""
    params = {
        "deep": {"fc1": {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array([100.0])}},
        "last": {"kernel": jnp.array([[3.0], [4.0]], jnp.bfloat16)},
        "other": {"kernel": jnp.array([1000.0])},
    }
    got = losses.l2_penalty(params, {"deep/fc1": 0.5, "last": 2.0})
    assert (float(got), got.dtype) == (52.5, jnp.float32)
    assert float(losses.l2_penalty(params, {})) == 0.0
    with pytest.raises(UsageError, match=r"no layer fc1 .* \['deep/fc1', 'last', 'other'\]"):
        losses.l2_penalty(params, {"fc1": 0.5})


@pytest.mark.parametrize(
    "options", [{"margin": 0.0}, {"margin": -1.0}, {"margin": 1.0, "cap": 0.0}]
)
def test_triplet_refuses_a_margin_or_cap_that_teaches_nothing(options):
    with pytest.raises(UsageError, match=r"must be a number, finite .* above 0"):
        losses.triplet(jnp.ones(2), jnp.ones(2), **options)


info_nce = jax.jit(losses.info_nce, static_argnames="temperature")


@jax.jit
def info_nce_and_gradient(rows, identity, weight):
    """The sum of the losses, the weights, and the gradient of the sum."""

    def total(rows):
        loss, counted = losses.info_nce(rows, identity, weight)
        return loss.sum(), counted

    (loss, counted), gradient = jax.value_and_grad(total, has_aux=True)(rows)
    return loss, counted, gradient


class TestInfoNce:
    """Twelve images; 3 shows nobody else, 7 and 8 are padding, and 8 would be a positive of 0."""

    identity = np.array([0, 0, 0, 1, 2, 2, 0, 2, 0, 3, 3, 2])
    weight = np.array([1, 2, 1, 1, 0.5, 1, 1, 0, 0, 1, 3, 1], np.float32)

    @pytest.fixture
    def rows(self, rng):
        return rng.normal(size=(12, 5)).astype(np.float32)

    def test_by_hand(self):
        """At temperature 1/2 exp(s / t) is e^2 of parallel rows, 1 of orthogonal ones.

        Of 0 and 1 the share of the positive is e^2 / (e^2 + 2); so it is of 2 and 3.
        """
        rows = jnp.array([[1.0, 0], [7, 0], [0, 2], [0, 3]])
        loss, weight = info_nce(rows, jnp.array([5, 5, 9, 9]), temperature=0.5)
        np.testing.assert_allclose(loss, 4 * [np.log1p(2 * np.exp(-2))], rtol=1e-6)
        np.testing.assert_array_equal(weight, 1.0)

    def test_several_positives_by_hand(self):
        """Of three alike images and an opposite one: s = 1, 1 and -1, t = 1.

        -1/2 (2 log(e / (2 e + 1/e))) = log(2 + e^-2); the last has no positive.
        """
        rows, identity = jnp.array([[1.0], [2], [3], [-1]]), jnp.array([0, 0, 0, 1])
        loss, weight = info_nce(rows, identity, temperature=1.0)
        np.testing.assert_allclose(loss, [*3 * [np.log(2 + np.exp(-2))], 0], rtol=1e-6)
        np.testing.assert_array_equal(weight, [1, 1, 1, 0])

    def test_an_anchor_s_copy_is_a_positive_and_it_itself_is_not(self):
        """A hundred orthogonal strangers: log(1 + 100 / e^10) is small, and has its digits."""
        rows = jnp.eye(101)[jnp.array([0, *range(101)])]
        loss, _ = info_nce(rows, jnp.array([0, *range(101)]))
        np.testing.assert_allclose(loss[:2], np.log1p(100 * np.exp(-10.0)), rtol=1e-4)

    @pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_against_oracle(self, rows, temperature, weighted):
        weight = self.weight if weighted else None
        got = info_nce(rows, self.identity, weight, temperature=temperature)
        weight = np.ones(12) if weight is None else weight
        expected = oracles.info_nce(rows, self.identity, weight, temperature)
        assert (expected[0] > 0).sum() == (9 if weighted else 11)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def test_half_precision_is_summed_in_float32(self, rows):
        """At the temperature of the paper, which is that of none given."""
        half = jnp.asarray(rows, jnp.bfloat16)
        got, _ = info_nce(half, self.identity, self.weight)
        expected, _ = oracles.info_nce(half, self.identity, self.weight, 0.1)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_order_lengths_and_names_do_not_matter(self, rows, rng):
        expected, _ = info_nce(rows, self.identity, self.weight)
        order = rng.permutation(12)
        lengths = 2.0 ** rng.integers(-100, 100, (12, 1)).astype(np.float32)
        got, _ = info_nce(
            (rows * lengths)[order], 70 - 3 * self.identity[order], self.weight[order]
        )
        np.testing.assert_allclose(got, np.asarray(expected)[order], rtol=1e-6, atol=1e-6)
        # The gradient of an image is that of its direction, over its length.
        got, expected = (
            info_nce_and_gradient(x, self.identity, self.weight)[-1] for x in (rows * lengths, rows)
        )
        np.testing.assert_allclose(got * lengths, expected, rtol=1e-4, atol=1e-5)

    def test_gradient(self, rows):
        with jax.enable_x64():
            check_grads(
                jax.jit(lambda x: losses.info_nce(x, self.identity, self.weight)[0]),
                (jnp.asarray(rows, jnp.float64),),
                order=1,
                modes=("rev",),
                rtol=1e-5,
            )

    def test_the_gradient_pulls_to_positives_and_pushes_from_others(self):
        """Anchor at 90 degrees, positive at 0, negative at 180: it turns to 0."""
        rows = jnp.array([[0.0, 1], [1, 0], [-1, 0]])
        gradient = info_nce_and_gradient(rows, jnp.array([0, 0, 1]), jnp.ones(3))[-1]
        assert gradient[0][0] < 0
        assert gradient[1][1] < 0 < gradient[2][1]

    @pytest.mark.parametrize(
        ("rows", "identity", "weight"),
        [
            pytest.param(np.ones((4, 4)), [0, 0, 1, 1], None, id="equal"),
            pytest.param(np.zeros((4, 4)), [0, 0, 1, 1], None, id="zero"),
            pytest.param(np.eye(4), [0, 1, 2, 3], None, id="no positive"),
            pytest.param(np.eye(4), [0, 0, 0, 0], None, id="no negative"),
            pytest.param(np.eye(4), [0, 0, 1, 1], [0, 0, 0, 0], id="nothing counts"),
            pytest.param(np.eye(4), [0, 0, 1, 1], [0, 0, 1, 0], id="one counts"),
            pytest.param(np.eye(1), [0], None, id="one image"),
        ],
    )
    def test_finite_at_the_edges(self, rows, identity, weight):
        rows, identity = jnp.asarray(rows, jnp.float32), jnp.array(identity)
        weight = jnp.ones(len(rows)) if weight is None else jnp.array(weight, jnp.float32)
        with jax.debug_nans(True):
            loss, counted, gradient = info_nce_and_gradient(rows, identity, weight)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        assert (float(loss) > 0) == bool(counted.any())

    def test_padding_changes_nothing_whatever_it_holds(self, rows):
        counted = self.weight > 0
        part = info_nce_and_gradient(rows[counted], self.identity[counted], self.weight[counted])[
            -1
        ]
        rows[~counted] = np.nan
        got = info_nce_and_gradient(rows, self.identity, self.weight)[-1]
        np.testing.assert_allclose(got[counted], part, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[~counted], 0.0)

    @pytest.mark.parametrize("wrong", [np.arange(12.0), np.arange(11), np.array(12 * ["a"])])
    def test_identities_are_a_number_for_each(self, rows, wrong):
        with pytest.raises(
            UsageError, match=r"^identity: .*give a whole number for each of the 12"
        ):
            losses.info_nce(rows, wrong)

    def after_a_step(self, devices):
        """Loss and parameters; identities are spread over devices, the last of 4 has padding."""
        rng = np.random.default_rng(1)
        batch = {
            "image": rng.normal(size=(16, 6)).astype(np.float32),
            "identity": np.arange(16) % 5,
            "weight": np.array([1, 2, *10 * [1], 0, 0, 0, 0], np.float32),
        }

        def loss_fn(params, model_state, batch, key):
            found = losses.info_nce(batch["image"] @ params, batch["identity"], batch["weight"])
            return Mean.of(*found), (model_state, {})

        optimizer, on = optax.sgd(1.0), {"devices": jax.devices()[:devices]}
        variables = {"params": rng.normal(size=(6, 4)).astype(np.float32)}
        state = create_state(variables, optimizer, key=jax.random.key(0))
        step = data_parallel(make_train_step(loss_fn, optimizer), **on)
        after, metrics = step(replicate(state, **on), shard(batch, **on))
        assert float(metrics["loss"].count) == 13
        return float(metrics["loss"].compute()), np.asarray(after.params) - variables["params"]

    @pytest.mark.parametrize("devices", [2, 4, 8])
    def test_one_device_is_many(self, devices):
        for got, expected in zip(self.after_a_step(devices), self.after_a_step(1), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    def test_that_comparison_sees_gradients_that_do_not_flow_back(self, monkeypatch):
        loss, update = self.after_a_step(1)

        def gather(tree):
            return jax.lax.stop_gradient(gather_over_devices(tree))

        monkeypatch.setattr(mining, "gather_over_devices", gather)
        got, wrong = self.after_a_step(4)
        np.testing.assert_allclose(got, loss, rtol=1e-5)
        assert np.abs(wrong - update).max() > 0.2 * np.abs(update).max()

    def test_that_comparison_sees_others_of_the_own_device_alone(self, monkeypatch):
        monkeypatch.setattr(mining, "gather_over_devices", lambda tree: tree)
        monkeypatch.setattr(mining, "first_gathered_row", lambda rows: 0)
        with pytest.raises(AssertionError):  # even the number of anchors with a positive
            self.after_a_step(2)
