import numpy as np
import pytest

from siamjax.search.row_checks import row_checks


def by_words(rows, squares):
    """The sum in Python's whole numbers, word by word."""
    golden, mask, found = 0x9E3779B97F4A7C15, 2**64 - 1, []
    for row, square in zip(rows, squares, strict=True):
        content = row.tobytes()
        content += bytes(-len(content) % 8)
        words = [int.from_bytes(content[at : at + 8], "little") for at in range(0, len(content), 8)]
        words.append(int.from_bytes(np.float64(square).tobytes(), "little"))
        weights = [(number * golden & mask) | 1 for number in range(1, len(words) + 1)]
        total = sum(word * weight for word, weight in zip(words, weights, strict=True))
        found.append((total + golden) & mask)
    return np.array(found, np.uint64)


@pytest.mark.parametrize("dtype", ["f4", "f2"])
@pytest.mark.parametrize("features", [1, 2, 3, 5, 64])
def test_is_the_sum_that_it_says(features, dtype):
    rng = np.random.default_rng(features)
    rows = rng.standard_normal((7, features)).astype(dtype)
    squares = rng.random(7)
    np.testing.assert_array_equal(row_checks(rows, squares), by_words(rows, squares))
    # Views that are not contiguous have the same sums.
    wide = np.repeat(rows, 2, axis=0)[::2]
    np.testing.assert_array_equal(row_checks(wide, squares), by_words(rows, squares))


def test_many_rows_are_taken_in_pieces():
    rows = np.random.default_rng(0).standard_normal((3000, 301), np.float32)
    squares = np.ones(3000)
    some = [0, 869, 870, 871, 1740, 2999]
    np.testing.assert_array_equal(
        row_checks(rows, squares)[some], by_words(rows[some], squares[some])
    )


def test_any_flipped_bit_changes_the_sum_and_zeros_are_not_zero():
    rows, squares = np.random.default_rng(1).random((1, 5), np.float32), np.array([0.5])
    before = row_checks(rows, squares)[0]
    for array in (rows, squares):
        bits = array.view(np.uint8).reshape(-1)
        for place in range(bits.size):
            for bit in range(8):
                bits[place] ^= 1 << bit
                assert row_checks(rows, squares)[0] != before
                bits[place] ^= 1 << bit
    swapped = rows.copy()
    swapped[0, [0, 1, 2, 3]] = rows[0, [2, 3, 0, 1]]
    assert row_checks(swapped, squares)[0] != before
    assert row_checks(np.zeros((1, 4), "f4"), np.zeros(1))[0] != 0
    assert row_checks(np.zeros((0, 4), "f4"), np.zeros(0)).shape == (0,)
