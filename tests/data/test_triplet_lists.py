"""Lists of triplets in which a line repeats or contradicts another."""

import numpy as np
import pytest
from PIL import Image
from splits import retrieval_splits

from siamjax.data.triplet_lists import read_triplets
from siamjax.errors import UsageError


@pytest.fixture
def listed(tmp_path):
    def read(*lines, rows=9, **options):
        path = tmp_path / "triplets.txt"
        path.write_text("\n".join(lines))
        return read_triplets(path, rows=rows, **options).tolist()

    return read


def test_a_triplet_is_there_once_and_the_order_stays(listed, capsys):
    lines = ["q,p,n", "7,1,2", "0,1,2", "", "7,1,2", "0,1,2 # again", "0,2,3", "7,1,2"]
    assert listed(*lines) == [[7, 1, 2], [0, 1, 2], [0, 2, 3]]
    assert capsys.readouterr().err.endswith(
        "triplets.txt: 3 triplets; 3 left out: repeated triplet (3: line 5, line 6, line 8)\n"
    )
    with pytest.raises(UsageError, match="3 left out: repeated triplet"):
        listed(*lines, strict=True)


@pytest.mark.parametrize("between", [[], ["0 1 2"], ["0 2 1", "0 1 2"]])
def test_a_triplet_and_its_reverse_are_refused(listed, between):
    with pytest.raises(UsageError, match=r"triplets.txt: lines \d and \d have the same query") as e:
        listed("5 6 7", "0 1 2", *between, "0 2 1")
    one, other = (int(word) for word in str(e.value).split() if word.isdigit())
    lines = ["5 6 7", "0 1 2", *between, "0 2 1"]
    assert {lines[one - 1], lines[other - 1]} == {"0 1 2", "0 2 1"}
    assert one < other


def test_other_triplets_of_the_same_images_stay(listed, capsys):
    lines = ["0 1 2", "1 0 2", "2 0 1", "0 1 3", "0 3 4", "3 0 1"]
    expected = [[int(word) for word in line.split()] for line in lines]
    assert listed(*lines, strict=True) == expected
    assert capsys.readouterr().err.endswith("triplets.txt: 6 triplets\n")


def test_against_a_search_by_hand(listed, rng):
    rows = rng.integers(0, 5, (200, 3))
    rows = rows[[len({*row}) == 3 for row in rows.tolist()]].tolist()
    kept = []
    for query, positive, negative in rows:
        if [query, negative, positive] not in kept and [query, positive, negative] not in kept:
            kept.append([query, positive, negative])
    consistent = [row for row in rows if row in kept]
    assert listed(*(" ".join(map(str, row)) for row in consistent)) == kept


@pytest.mark.parametrize("word", ["1_0", "9" * 5000, "1e3", "0x1", "²"])
def test_what_is_no_row_number(listed, word):
    with pytest.raises(UsageError, match=r"triplets.txt, line 2: ") as error:
        listed("0 1 2", f"0 1 {word}", rows=20)
    assert len(str(error.value)) < 400


def test_rows_of_a_folder_are_not_renumbered_by_what_is_left_out(tmp_path):
    for item in range(8):
        for number in range(2):
            path = tmp_path / "things" / f"{item}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), 9 * item, np.uint8)).save(path)
    (tmp_path / "things/README").write_text("x")
    listed = tmp_path / "triplets.txt"
    listed.write_text("\n".join(f"{2 * n} {2 * n + 1} {(2 * n + 2) % 16}" for n in range(8)))
    options = {"data": str(tmp_path / "things"), "test_items": 2, "validation_items": 2}
    assert retrieval_splits(**options, triplets=listed, category=None).listed is not None
    (tmp_path / "things/0/0.png").write_bytes(b"")
    assert retrieval_splits(**options).listed is None
    with pytest.raises(UsageError, match=r"0/0.png: empty file; triplets number the rows"):
        retrieval_splits(**options, triplets=listed)
