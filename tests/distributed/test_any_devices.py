"""The same result on any number of devices: 1 = 2 = 4 = 8 = two processes of two devices each.

Padding is at one place: of sixteen examples the last six do not count, so that the last of four
devices has nothing to count, and neither have the last three of eight.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_devices import FLOAT64, steps_of
from small_experiments import OPTIONS
from starting import Processes

from siamjax import mining
from siamjax.models import normalization
from siamjax.parallel import AXIS, gather_over_devices, sum_over_devices
from siamjax.training import step

SCRIPT = str(Path(__file__).with_name("any_devices.py"))
PAIR, TRIPLET, CROSS_INPUT = "lfw_contrastive", "visual_search_triplet", "reid_normxcorr"


@functools.cache
def alone(name, steps, devices):
    """What this process finds, with so many of its devices."""
    return steps_of(name, steps, devices=jax.devices()[:devices])


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """``(name, steps) -> [what process 0 found, what process 1 found]``; one start for several."""
    folders = {}

    def found(name, steps):
        names = [FLOAT64] if name == FLOAT64 else [PAIR, TRIPLET, CROSS_INPUT]
        folder = folders.get((*names, steps))
        if folder is None:
            folder = folders[*names, steps] = tmp_path_factory.mktemp("found")
            words = (SCRIPT, "{distributed}", str(folder), str(steps), *names)
            with Processes(*words, folder=folder / "said") as processes:
                processes.succeeded()
        return [dict(np.load(folder / f"{name}-{index}.npz")) for index in (0, 1)]

    return found


def deviation(got, expected, kind):
    """The largest difference between two steps, as a share of the largest entry."""
    assert got.keys() == expected.keys()
    names = [name for name in expected if name.startswith(f"{kind}/")]
    largest = max(np.abs(expected[name]).max() for name in names)
    assert largest > 0
    return max(np.abs(got[name] - expected[name]).max() for name in names) / largest


def assert_close(got, expected, *, share):
    np.testing.assert_allclose(got["losses"], expected["losses"], rtol=share)
    assert deviation(got, expected, "gradients") < share
    if any(name.startswith("kept/") for name in expected):
        assert deviation(got, expected, "kept") < share


@pytest.mark.parametrize(
    "devices", [4, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 8))]
)
@pytest.mark.parametrize("name", OPTIONS)
def test_one_step(name, devices):
    got, expected = alone(name, 1, devices), alone(name, 1, 1)
    assert_close(got, expected, share=1e-5)
    # Entries that are small beside those of other layers are seen too.
    for where in expected.keys() - {"losses"}:
        atol = 1e-4 * np.abs(expected[where]).max()
        np.testing.assert_allclose(got[where], expected[where], rtol=0, atol=atol, err_msg=where)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 1])
@pytest.mark.parametrize("name", [PAIR, TRIPLET, CROSS_INPUT])
def test_one_step_of_two_processes(together, name, devices):
    for got in together(name, 1):
        assert_close(got, alone(name, 1, devices), share=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 1])
@pytest.mark.parametrize(("name", "share"), [(PAIR, 1e-5), (TRIPLET, 2e-2), (CROSS_INPUT, 2e-2)])
def test_twenty_steps_of_two_processes(together, name, share, devices):
    expected = alone(name, 20, devices)["losses"]
    assert len(set(expected)) == 20
    for got in together(name, 20):
        np.testing.assert_allclose(got["losses"], expected, rtol=share)


@pytest.mark.parametrize("devices", [4, 1])
def test_twenty_steps_of_two_processes_in_float64(together, devices):
    expected = alone(FLOAT64, 20, devices)
    assert expected["losses"].dtype == np.float64
    assert np.ptp(expected["losses"]) > 0.01
    for got in together(FLOAT64, 20):
        assert_close(got, expected, share=1e-11)


class TestWrongSpellings:
    """The comparison sees each: the gradients are wrong by more than a fifth of the largest."""

    @pytest.fixture(autouse=True)
    def right(self):
        """Found before anything is put in."""
        return {name: alone(name, 1, 1) for name in (PAIR, TRIPLET)}

    def deviation(self, right, name, **options):
        wrong = steps_of(name, 1, devices=jax.devices()[:4], **options)
        found = deviation(wrong, right[name], "gradients")
        print(f"{name}: {found:.2f} of the largest entry")
        return found

    def test_no_gradient_flows_back_to_other_devices(self, right, monkeypatch):
        def gather(tree):
            return jax.lax.stop_gradient(gather_over_devices(tree))

        monkeypatch.setattr(mining, "gather_over_devices", gather)
        assert self.deviation(right, TRIPLET) > 0.2

    def test_negatives_of_the_own_device_alone(self, right, monkeypatch):
        monkeypatch.setattr(mining, "gather_over_devices", lambda tree: tree)
        monkeypatch.setattr(mining, "first_gathered_row", lambda rows: 0)
        assert self.deviation(right, TRIPLET) > 0.2

    @pytest.mark.parametrize("name", [PAIR, TRIPLET])
    def test_the_gradient_of_the_mean_loss_is_not_summed(self, right, name, monkeypatch):
        def mean_loss(loss_fn):
            def wrapped(*arguments):
                loss, rest = loss_fn(*arguments)
                count = sum_over_devices(loss.count)
                mean = jax.lax.pmean(loss.total / jnp.maximum(loss.count, 1.0), AXIS)
                return loss.replace(total=mean * count), rest  # which the step divides by count

            return wrapped

        def metrics_alone(tree):
            return tree[0], sum_over_devices(tree[1])

        monkeypatch.setattr(step, "sum_over_devices", metrics_alone)
        assert self.deviation(right, name, wrap=mean_loss) > 0.2

    def test_statistics_of_the_own_device_alone(self, right, monkeypatch):
        monkeypatch.setattr(normalization, "gather_over_devices", lambda tree: tree)
        monkeypatch.setattr(normalization, "sum_over_devices", lambda tree: tree)
        assert self.deviation(right, PAIR) > 0.2
