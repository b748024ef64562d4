"""Which task a set, a folder or a file is for, and the test that it makes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from siamjax.data.reid import load_reid_test
from siamjax.data.retrieval import evaluation_search
from siamjax.data.tasks import LabelledOptions, load_labelled, tasks_of
from siamjax.errors import UsageError


def save(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("people/anna/1.png", "people/anna/2.png", "people/bert/1.png"):
        save(tmp_path / name)
    save(tmp_path / "things/a.png")
    (tmp_path / "things/list.csv").write_text("image,item\na.png,x\n")
    (tmp_path / "pairs.txt").write_text("a b 1\n")
    (tmp_path / "pairs.tsv").write_text("# from a page\n\np\u2028q.png\ta.png\t1\n", "utf-8")
    (tmp_path / "items.TSV").write_text("image\titem\n")
    for name in ("0001_c1", "0001_c2", "0002_c1", "0002_c2", "-1_c3"):
        save(tmp_path / f"walkers/bounding_box_test/{name}s1_1.png")
    for name in ("0001_c1", "0002_c1"):
        save(tmp_path / f"walkers/query/{name}s1_0.png")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "tasks"),
    [
        ("orl_faces", "verification retrieval"),
        ("lfw/funneled", "verification retrieval"),
        ("grid", "reid"),
        ("cuhk03/labeled", "reid"),
        ("emoji", "retrieval verification"),
        ("stanford_online_products", "retrieval verification"),
        ("people", "verification retrieval"),
        ("things", "retrieval verification"),
        ("items.TSV", "retrieval verification"),
        ("pairs.txt", "verification"),
        ("pairs.tsv", "verification"),
        ("walkers", "reid"),
    ],
)
def test_the_data_says_its_task(place, data, tasks):
    assert " ".join(tasks_of(data)) == tasks
    # A folder of sub-folders was made for none: there a run's own task counts, and only there.
    preferred = "retrieval verification" if data == "people" else tasks
    assert " ".join(tasks_of(data, prefer="retrieval")) == preferred
    assert " ".join(tasks_of(data, prefer="reid")) == tasks


def test_what_is_neither_a_set_nor_a_path_is_refused_with_all_names(place):
    with pytest.raises(UsageError, match=r"nowhere: no such set.*orl_faces.*market1501.*emoji"):
        tasks_of("nowhere")


def test_a_reid_folder_is_tested_on_without_images_to_train_on(place):
    """By Market's rule: junk is left out, and each query asks two of the four others."""
    test = load_reid_test("walkers")
    keys = np.array(test.images.keys)
    assert keys[test.test.query].tolist() == ["query/0001_c1s1_0.png", "query/0002_c1s1_0.png"]
    assert len(test.test.gallery) == 4
    assert not any("-1" in key for key in keys[test.test.gallery])
    assert test.test.rule == "market"
    shutil.rmtree(place / "walkers/query")
    with pytest.raises(UsageError, match=r"no image in query/; .* and the same in bounding_box_te"):
        load_reid_test("walkers")


def test_every_image_of_an_item_with_two_asks_for_the_other(place):
    images, asked = evaluation_search("people")
    keys = np.array(images.keys)
    assert keys[asked.query].tolist() == ["anna/1.png", "anna/2.png"]
    assert len(asked.gallery) == 3
    assert asked.own_places.tolist() == [0, 1]
    with pytest.raises(UsageError, match="no item has two images"):
        evaluation_search("things")


def test_emoji_are_searched_for_among_those_of_the_other_vendor():
    images, asked = evaluation_search("emoji")
    assert len(asked.query) == len(asked.gallery) == len(set(images.identities.tolist()))
    assert not asked.leave_one_out


@pytest.mark.parametrize(
    ("data", "people", "said"),
    [
        ("test-people", 4, r"^folder test-people: 4 of 4 .* \(--validation-identities, --test-i"),
        ("one_is_left", 5, r"1 person .* \(--validation-identities, --test-identities\)$"),
        ("grid", 0, r"^test_identities 2 does not apply to grid; leave it out$"),
        ("products", 4, r"^test_identities 2 does not apply to stanford_online_products; leave"),
    ],
)
def test_errors_name_the_options_that_count_identities(tmp_path, monkeypatch, data, people, said):
    monkeypatch.chdir(tmp_path)
    for person, number in np.ndindex(people, 2):
        save(tmp_path / data / f"{person}" / f"{number}.png")
    for split, items in {"train": (0, 1), "test": (2, 3)}.items() if data == "products" else ():
        rows = [f"{2 * i + n} {i} 1 {i}/{n}.png" for i in items for n in (0, 1)]
        text = "\n".join(["image_id class_id super_class_id path", *rows, ""])
        (tmp_path / data / f"Ebay_{split}.txt").write_text(text)
    counts = {"validation_identities": 2, "test_identities": 2}
    with pytest.raises(UsageError, match=said):
        load_labelled(LabelledOptions(data=data, **counts))
