"""Two processes of two devices find what one process finds with four devices, and with one.

Each process has its own rows of every batch. Of the second process two of eight count, and none on
its last device.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from any_devices import FLOAT64, steps_of
from starting import Processes

SCRIPT = str(Path(__file__).with_name("any_devices.py"))
PAIR, TRIPLET, CROSS_INPUT = "lfw_contrastive", "visual_search_triplet", "reid_normxcorr"


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """``(name, steps) -> [what process 0 found, what process 1 found]``; one start for all."""
    started = {}

    def found(name, steps):
        folder = started.get(steps)
        if folder is None:
            folder = started[steps] = tmp_path_factory.mktemp("found")
            names = [PAIR, TRIPLET, CROSS_INPUT, *([FLOAT64] if steps == 1 else [])]
            words = (SCRIPT, "{distributed}", str(folder), str(steps), *names)
            with Processes(*words, folder=folder / "said") as processes:
                processes.succeeded()
        return [dict(np.load(folder / f"{name}-{index}.npz")) for index in (0, 1)]

    return found


def assert_close(got, expected, *, share):
    """Equal up to a share of the largest entry, of the gradients as of the statistics."""
    assert got.keys() == expected.keys()
    for kind in {where.split("/")[0] for where in expected} - {"losses"}:
        largest = max(np.abs(expected[w]).max() for w in expected if w.startswith(kind + "/"))
        assert largest > 0
        for where in expected:
            if where.startswith(kind + "/"):
                atol = share * largest
                np.testing.assert_allclose(got[where], expected[where], 0, atol, err_msg=where)


@pytest.mark.parametrize("devices", [4, 1])
@pytest.mark.parametrize("name", [PAIR, TRIPLET, CROSS_INPUT])
def test_one_step(together, name, devices):
    expected = steps_of(name, 1, devices=jax.devices()[:devices])
    for got in together(name, 1):
        np.testing.assert_allclose(got["losses"], expected["losses"], rtol=1e-5)
        assert_close(got, expected, share=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 1])
@pytest.mark.parametrize(("name", "share"), [(PAIR, 1e-5), (TRIPLET, 2e-2), (CROSS_INPUT, 2e-2)])
def test_twenty_steps(together, name, share, devices):
    expected = steps_of(name, 20, devices=jax.devices()[:devices])["losses"]
    assert np.ptp(expected) > 10 * share * expected[0]
    for got in together(name, 20):
        np.testing.assert_allclose(got["losses"], expected, rtol=share)


@pytest.mark.parametrize("devices", [4, 1])
def test_twenty_steps_in_float64(together, devices):
    expected = steps_of(FLOAT64, 20, devices=jax.devices()[:devices])
    assert expected["losses"].dtype == np.float64
    assert np.ptp(expected["losses"]) > 0.01
    for got in together(FLOAT64, 1):
        np.testing.assert_allclose(got["losses"], expected["losses"], rtol=1e-11)
        assert_close(got, expected, share=1e-11)
