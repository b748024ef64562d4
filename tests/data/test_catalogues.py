"""Tables, folders and sets as catalogues; their splits; triplets of their rows."""

import io
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from splits import retrieval_splits

from siamjax.data.open_catalogue import open_catalogue
from siamjax.data.triplet_lists import read_triplets
from siamjax.data.triplets import ListedTriplets
from siamjax.errors import UsageError


def write(path, text, *, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def draw(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (value, 0, 0)).save(path)


def red(catalogue, row):
    return catalogue.images.image(row)[0, 0, 0]


class TestTable:
    """A row an image; what the columns are called tells what they are."""

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_columns(self, tmp_path, separator):
        rows = ["Image,id,Item,category,Note", 'a.png,7,mug,kitchen,"big, blue"', "b.png,8,mug,,"]
        text = "\n".join(rows).replace(",", separator).replace("big" + separator, "big,")
        for name, value in (("a.png", 10), ("b.png", 20)):
            draw(tmp_path / name, value)
        catalogue = open_catalogue(write(tmp_path / "t.tsv", "\ufeff" + text))
        assert catalogue.images.keys == ("7", "8")
        assert catalogue.images.identities.tolist() == ["mug", "mug"]
        assert {n: c.tolist() for n, c in catalogue.attributes.items()} == {
            "category": ["kitchen", ""],
            "note": ["big, blue", ""],
        }
        assert [red(catalogue, row) for row in (0, 1)] == [10, 20]

    def test_the_path_is_the_id_and_the_item_without_these_columns(self, tmp_path):
        table = write(tmp_path / "t.csv", "price,filename\n1,sub/a.png\n\n2,b.png\n")
        draw(tmp_path / "images/sub/a.png", 3)
        draw(tmp_path / "images/b.png", 4)
        catalogue = open_catalogue(str(table))
        assert catalogue.images.keys == ("sub/a.png", "b.png")
        assert catalogue.images.identities.tolist() == ["sub/a.png", "b.png"]
        assert list(catalogue.attributes) == ["price"]
        assert [red(catalogue, row) for row in (0, 1)] == [3, 4]

    def test_an_empty_item_is_the_rows_own(self, tmp_path):
        table = write(tmp_path / "t.csv", "file,product\na.png,x\nb.png,\nc.png,x\n")
        assert open_catalogue(table).images.identities.tolist() == ["x", "b.png", "x"]
        write(table, "file,product\na.png,b.png\nb.png,\n")
        with pytest.raises(UsageError, match=r"t\.csv: the row of id 'b.png' has an empty product"):
            open_catalogue(table)

    def test_a_long_cell_costs_its_own_length(self, tmp_path):
        text = "image,note\n" + "".join(f"{i}.png,n{i}\n" for i in range(30_000))
        long = "x" * 5000
        table = write(tmp_path / "t.csv", text + f"z.png,{long}\n")
        note = open_catalogue(table).attributes["note"]
        assert note.nbytes < 1e6
        assert (note[0], note[29_999], note[30_000]) == ("n0", "n29999", long)
        assert np.flatnonzero(note == "n5").tolist() == [5]

    HEADLESS = ("dress,red,i1,female,Gown", "shoe,blue,i2,male,Boot")

    def test_five_columns_without_a_header(self, tmp_path):
        table = write(tmp_path / "images.csv", "\n".join(self.HEADLESS))
        for name, value in (("i1", 50), ("i2", 90)):
            Image.new("L", (4, 4), value).save(tmp_path / f"{name}.jpg")
        catalogue = open_catalogue(table)
        assert catalogue.images.keys == ("i1", "i2")
        assert catalogue.attributes["category"].tolist() == ["dress", "shoe"]
        assert catalogue.attributes["colour"].tolist() == ["red", "blue"]
        assert catalogue.attributes["gender"].tolist() == ["female", "male"]
        assert catalogue.attributes["name"].tolist() == ["Gown", "Boot"]
        assert [red(catalogue, row) for row in (0, 1)] == [50, 90]

    def test_five_unknown_names_are_no_image(self, tmp_path):
        text = "sku,title,brand,price,photo\n1,a,x,3,p1.jpg\n"
        table = write(tmp_path / "t.csv", text)
        draw(tmp_path / "x.jpg", 1)
        message = r"line 1: no column for the image .* only sku, title, brand, price, photo;"
        with pytest.raises(UsageError, match=message):
            open_catalogue(table)
        write(table, self.HEADLESS[0])
        with pytest.raises(UsageError, match=r"add the image 'i1'"):
            open_catalogue(table)

    def test_header_in_another_order(self, tmp_path):
        table = write(tmp_path / "t.csv", "ID,name,category\nx/i1.png,Gown,dress\n")
        draw(tmp_path / "x/i1.png", 7)
        catalogue = open_catalogue(tmp_path)
        assert catalogue.images.name == "table t.csv"
        assert catalogue.images.source.paths[0] == table.parent / "x/i1.png"
        assert red(catalogue, 0) == 7

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"t\.csv: an empty table"),
            ("image,item\n", r"t\.csv: a table without rows"),
            ("price,item\n1,2\n", r"line 1: no column for the image .* only price, item"),
            ("image,a,A\nx,1,2\n", r"line 1: two columns are called a"),
            ("image,item\na.png,1\n\nb.png\n", r"t\.csv, line 4: not 2 columns"),
            ("image,item\na,1\nb,2\n a ,3\n", r"image 'a' is in lines 2 and 4"),
            ("image,id\na,1\nb,2\nc,1\n", r"id '1' is in lines 2 and 4"),
            ("image,id\na,1\n ,2\n", r"t\.csv, line 3: no image"),
            ("image,id\na,1\nb,\n", r"t\.csv, line 3: no id"),
            ('image,id\na,1\n"b,2\n', r"t\.csv, line 3: unexpected end of data; mend its quotes"),
        ],
    )
    def test_refuses(self, tmp_path, text, message):
        with pytest.raises(UsageError, match=message):
            open_catalogue(write(tmp_path / "t.csv", text))

    def test_says_which_line_is_not_utf8(self, tmp_path):
        table = write(tmp_path / "t.csv", "image,item\na,1\nb,T\xfcr\n", encoding="latin-1")
        with pytest.raises(UsageError, match=r"t\.csv, line 3: not UTF-8"):
            open_catalogue(table)

    def test_a_missing_image_is_named_when_it_is_read(self, tmp_path):
        catalogue = open_catalogue(write(tmp_path / "t.csv", "id,name\ni1,a\ni2,b\n"))
        with pytest.raises(UsageError, match=r"i2\.jpg: no such file"):
            catalogue.images.image(1)
        (tmp_path / "i2.jpg").write_bytes(b"no image")
        with pytest.raises(UsageError, match=r"i2\.jpg: not an image"):
            catalogue.images.image(1)


class TestFolder:
    """Images without a table."""

    def test_a_sub_folder_is_an_item(self, tmp_path):
        for place, name in enumerate(("mug/1.png", "mug/2.jpg", "a/b/1.png", "alone.png")):
            draw(tmp_path / name, 10 * place)
        write(tmp_path / "README.txt", "")
        write(tmp_path / ".trash/x.png", "")
        write(tmp_path / "mug/._1.png", "")
        catalogue = open_catalogue(tmp_path)
        assert catalogue.images.keys == ("a/b/1.png", "alone.png", "mug/1.png", "mug/2.jpg")
        assert catalogue.images.identities.tolist() == ["a/b", "alone.png", "mug", "mug"]
        assert catalogue.attributes == {}
        assert red(catalogue, 1) == 30

    def test_items_csv_goes_before_other_tables(self, tmp_path):
        write(tmp_path / "triplets.csv", "0,1,2\n")
        write(tmp_path / "items.csv", "image\na.png\n")
        assert open_catalogue(tmp_path).images.name == "table items.csv"
        (tmp_path / "items.csv").rename(tmp_path / "x.csv")
        with pytest.raises(
            UsageError, match=r"2 tables \(triplets\.csv, x\.csv\); give the path of the one"
        ):
            open_catalogue(tmp_path)

    def test_refuses(self, tmp_path):
        with pytest.raises(UsageError, match="give a folder that holds a table or images"):
            open_catalogue(tmp_path)
        with pytest.raises(UsageError, match=r"nothing: no such table or folder; .* one of emoji"):
            open_catalogue(tmp_path / "nothing")
        with pytest.raises(UsageError, match=r"home .* does not apply to emoji"):
            open_catalogue("emoji", home=tmp_path)


class TestTriplets:
    """Lines of three row numbers."""

    @pytest.mark.parametrize("separator", [",", ", ", ";", "\t", " ", "   "])
    @pytest.mark.parametrize("title", ["", "query,positive,negative\n", "\n# a, b; c\nq,p,n\n"])
    def test_reads(self, tmp_path, separator, title):
        rows = "# of\n0,1,2\n  \n4,3,0 # last\n".replace(",", separator)
        text = title.replace(",", separator) + rows
        path = write(tmp_path / "t.txt", text)
        got = read_triplets(path, rows=5)
        assert got.dtype == np.int64
        assert got.tolist() == [[0, 1, 2], [4, 3, 0]]

    def test_counted_from_one(self, tmp_path):
        path = write(tmp_path / "t.txt", "1 2 5\n")
        assert read_triplets(path, rows=5, first_row=1).tolist() == [[0, 1, 4]]
        with pytest.raises(
            UsageError, match=r"line 1: '1 2 5': expected rows 0 to 4; is first_row 0"
        ):
            read_triplets(path, rows=5)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"t\.txt: no triplet"),
            ("q p n\n", r"t\.txt: no triplet"),
            ("0 1 2\n# x\n0 1\n", r"line 3: '0 1': expected three row numbers"),
            ("0 1\n2 3\n", r"line 1: '0 1': expected three"),
            ("0 1 2 3\n", r"line 1: '0 1 2 3': expected three"),
            ("0,1,2\n0,,2\n", r"line 2: '0  2': expected three"),
            ("0 1 2\n0 1 x\n", r"line 2: '0 1 x': expected three"),
            ("0 1 2\n0 1.5 2\n", r"line 2: '0 1.5 2': expected three"),
            ("0.5 1.5 2.5\n", r"line 1: '0.5 1.5 2.5': expected three"),
            ("0 1 2\n\n3,4,0\n", r"line 3: '3,4,0': .* separated as in the first"),
            ("0,1,2,\n", r"line 1: '0 1 2 ': expected three"),
            ("0 1 99999999999999999999\n", r"line 1: '0 1 9{20}': expected rows 0 to 4"),
            ("0 1 2\n\n3 4 5\n", r"line 3: '3 4 5': expected rows 0 to 4"),
            ("0 1 2\n-1 4 3\n", r"line 2: '-1 4 3': expected rows 0 to 4"),
            ("0 1 2\n3 3 4\n", r"line 2: '3 3 4': query, positive and negative must be different"),
            ("0 1 1\n", r"line 1: '0 1 1': query, positive and negative must be different"),
        ],
    )
    def test_refuses(self, tmp_path, text, message):
        with pytest.raises(UsageError, match=message):
            read_triplets(write(tmp_path / "t.txt", text), rows=5)
        with pytest.raises(UsageError, match=r"none: no such file; give a file of triplets"):
            read_triplets(tmp_path / "none", rows=5)


class OnlineProducts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A small set in the form that TFDS's own builder prepares."""

    VERSION = tfds.core.Version("1.0.0")
    name = "stanford_online_products"

    def _info(self):
        features = {
            "class_id": tfds.features.ClassLabel(num_classes=22634),
            "super_class_id/num": tfds.features.ClassLabel(num_classes=2),
            "super_class_id": tfds.features.ClassLabel(names=["bicycle", "cabinet"]),
            "image": tfds.features.Image(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 6), "test": self._generate_examples(6, 9)}

    def _generate_examples(self, first=0, last=0):
        for number in range(first * 3, last * 3):
            encoded = io.BytesIO()
            Image.new("RGB", (3, 3), (number, 0, 0)).save(encoded, "PNG")
            kind = number % 2
            yield (
                number,
                {
                    "class_id": number // 3,
                    "super_class_id/num": kind,
                    "super_class_id": kind,
                    "image": encoded.getvalue(),
                },
            )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    OnlineProducts(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


class TestOnlineProducts:
    """Stanford's set, as TFDS prepared it and as it is published."""

    def test_prepared(self, prepared):
        catalogue = open_catalogue("stanford_online_products", home=prepared)
        assert len(catalogue) == 27
        assert catalogue.images.keys[0] == "train/0"
        assert catalogue.images.keys[-1] == "test/8"
        assert catalogue.images.identities.tolist() == [str(n // 3) for n in range(27)]
        assert catalogue.attributes["category"].tolist()[:3] == ["bicycle", "cabinet", "bicycle"]
        assert catalogue.attributes["split"].tolist() == ["train"] * 18 + ["test"] * 9
        assert [red(catalogue, row) for row in (0, 17, 18, 26)] == [0, 17, 18, 26]

    def test_unpacked(self, tmp_path):
        for split, rows in (("train", "1 4 1 bicycle_final/a.JPG"), ("test", "2 9 8 mug_final/b")):
            text = f"image_id class_id super_class_id path\n{rows}\n"
            write(tmp_path / f"Ebay_{split}.txt", text)
        draw(tmp_path / "bicycle_final/a.JPG", 200)
        catalogue = open_catalogue(tmp_path)
        assert catalogue.images.name == "stanford_online_products"
        named = open_catalogue("stanford_online_products", home=tmp_path)
        assert named.images.keys == catalogue.images.keys
        assert catalogue.images.keys == ("bicycle_final/a.JPG", "mug_final/b")
        assert catalogue.images.identities.tolist() == ["4", "9"]
        assert catalogue.attributes["category"].tolist() == ["bicycle", "mug"]
        assert catalogue.attributes["split"].tolist() == ["train", "test"]
        assert red(catalogue, 0) > 190
        write(tmp_path / "Ebay_test.txt", "image_id class_id super_class_id path\n1 x 2 y\n")
        with pytest.raises(UsageError, match=r"Ebay_test\.txt, line 2: expected 'image_id"):
            open_catalogue("stanford_online_products", home=tmp_path)

    def test_official_split(self, prepared):
        splits = retrieval_splits("stanford_online_products", home=prepared, validation_items=2)
        assert splits.test.gallery.tolist() == list(range(18, 27))
        assert splits.test.query.tolist() == list(range(18, 27))
        assert splits.test.leave_one_out
        assert len(splits.validation.query) == 6
        assert len(splits.training) == 12
        assert "official split" in splits.protocol
        with pytest.raises(UsageError, match="test_items 3 does not apply"):
            retrieval_splits("stanford_online_products", home=prepared, test_items=3)

    def test_official_split_of_the_unpacked_folder(self, tmp_path):
        for split, items in (("train", range(6)), ("test", range(6, 9))):
            rows = [f"{3 * i + n} {i} 1 mug_final/{i}_{n}.JPG" for i in items for n in range(3)]
            text = "\n".join(["image_id class_id super_class_id path", *rows])
            write(tmp_path / f"Ebay_{split}.txt", text)
        splits = retrieval_splits(str(tmp_path), validation_items=2)
        assert splits.test.gallery.tolist() == list(range(18, 27))
        assert "official split" in splits.protocol
        again = retrieval_splits("stanford_online_products", home=str(tmp_path), validation_items=2)
        assert again.fingerprint() == splits.fingerprint()
        assert retrieval_splits(**again.request).fingerprint() == splits.fingerprint()
        with pytest.raises(UsageError, match="test_items 3 does not apply"):
            retrieval_splits(str(tmp_path), test_items=3)
        (tmp_path / "Ebay_train.txt").unlink()
        with pytest.raises(UsageError, match=r"Ebay_train\.txt: no such file; unpack"):
            open_catalogue(tmp_path)

    def test_prepared_in_the_usual_format_of_tfds(self, prepared, tmp_path):
        """Which only TensorFlow reads; nobody is told to remove it."""
        shutil.copytree(prepared, tmp_path / "home")
        for path in list((tmp_path / "home").rglob("*")):
            if path.name == "dataset_info.json":
                path.write_text(path.read_text().replace("array_record", "tfrecord"))
            elif path.is_file():
                path.rename(path.with_name(path.name.replace("array_record", "tfrecord")))
        with pytest.raises(UsageError, match=r"1\.0\.0: not prepared as array_record, .*; unpack"):
            open_catalogue("stanford_online_products", home=tmp_path / "home")

    @pytest.mark.parametrize("name", ["dataset_info.json", "*-train*", "*-test*"])
    def test_damaged(self, prepared, tmp_path, name):
        shutil.copytree(prepared, tmp_path / "home")
        (path,) = (tmp_path / "home").rglob(name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UsageError, match=r"copy cannot be read \(.*\); unpack") as raised:
            open_catalogue("stanford_online_products", home=tmp_path / "home")
        assert str(raised.value).startswith(f"{tmp_path / 'home' / 'stanford_online_products'}")
        assert "remove" not in str(raised.value)

    def test_says_what_to_do_where_it_is_not(self, tmp_path):
        with pytest.raises(UsageError, match=r"not prepared in .* Ebay_train\.txt in place of"):
            open_catalogue("stanford_online_products", home=tmp_path)
        with pytest.raises(UsageError, match="no such folder"):
            open_catalogue("stanford_online_products", home=tmp_path / "none")


def items_of(splits, indices):
    return set(splits.images.identities[indices].tolist())


class TestSplits:
    """No item is in two of training, validation and test."""

    @pytest.mark.parametrize("seed", [0, 5])
    def test_emoji(self, seed):
        splits = retrieval_splits("emoji", seed=seed)
        vendor = splits.catalogue.attributes["vendor"]
        parts = [items_of(splits, splits.training)]
        for retrieval, count in ((splits.validation, 100), (splits.test, 200)):
            assert len(retrieval.query) == len(retrieval.gallery) == count
            assert set(vendor[retrieval.query]) == {"google"}
            assert set(vendor[retrieval.gallery]) == {"twitter"}
            assert items_of(splits, retrieval.query) == items_of(splits, retrieval.gallery)
            assert not retrieval.leave_one_out
            parts.append(items_of(splits, retrieval.query))
        assert [len(part) for part in parts] == [827, 100, 200]
        assert len(set().union(*parts)) == 1127
        assert len(splits.training) == 2 * 827
        for words in (
            "827 for training",
            "200 for test",
            "google's images are the queries",
            "artwork",
        ):
            assert words in splits.protocol
        again = retrieval_splits(**splits.request)
        assert again.fingerprint() == splits.fingerprint()

    def test_fingerprint_tells_splits_apart(self):
        prints = {
            retrieval_splits("emoji", seed=seed, test_items=count).fingerprint()
            for seed, count in ((0, None), (1, None), (0, 150))
        }
        assert len(prints) == 3

    def table(self, tmp_path, counts):
        rows = [f"{item}-{i}.png,{item}" for item, n in enumerate(counts) for i in range(n)]
        return str(write(tmp_path / "t.csv", "\n".join(["image,item", *rows])))

    def test_a_table_is_divided_by_item(self, tmp_path):
        path = self.table(tmp_path, [2, 3] * 10 + [1] * 4)
        splits = retrieval_splits(path)
        parts = [splits.training, splits.validation.gallery, splits.test.gallery]
        named = [items_of(splits, part) for part in parts]
        assert [len(names) for names in named] == [18, 2, 4]
        assert len(set().union(*named)) == 24
        assert sum(map(len, parts)) == len(splits.catalogue)
        assert {str(item) for item in range(20, 24)} <= named[0]
        for retrieval in (splits.validation, splits.test):
            assert retrieval.leave_one_out
            np.testing.assert_array_equal(retrieval.query, retrieval.gallery)
        other = retrieval_splits(path, test_items=3, validation_items=5)
        assert len(items_of(other, other.test.query)) == 3
        assert len(items_of(other, other.validation.query)) == 5

    def test_refuses(self, tmp_path):
        path = self.table(tmp_path, [2] * 8 + [1] * 50)
        with pytest.raises(UsageError, match=r"4 \+ 3 items to hold out of 8 that have two"):
            retrieval_splits(path, test_items=4, validation_items=3)
        with pytest.raises(UsageError, match=r"1 \+ 2 items to hold out"):
            retrieval_splits(path, test_items=1)
        with pytest.raises(UsageError, match="seed -1"):
            retrieval_splits(path, seed=-1)
        with pytest.raises(UsageError, match=r"no item has two images.* a column 'item'"):
            retrieval_splits(self.table(tmp_path, [1] * 9))


class TestListed:
    """Triplets of a file are trained on; none of them shows an item held out."""

    # Row 3 i, 3 i + 1 and 3 i + 2 are one thing: the first asks for the second, that for the last.
    ROWS = tuple(
        (3 * i + step, 3 * i + step + 1, (3 * i + 3 * away) % 60)
        for i in range(20)
        for step in (0, 1)
        for away in range(1, 8)
    )

    def files(self, tmp_path, rows, *, items=None):
        """A table in which each image is an item of its own, unless told, and its triplets."""
        lines = [f"p{n},{n % 2}" + (f",{items[n]}" if items else "") for n in range(60)]
        title = "id,category" + (",item" if items else "")
        table = write(tmp_path / "t.csv", "\n".join([title, *lines]))
        text = "".join("{} {} {}\n".format(*(n + 1 for n in row)) for row in rows)
        return str(table), write(tmp_path / "triplets.txt", text)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_items_are_what_triplets_join(self, tmp_path, seed):
        data, triplets = self.files(tmp_path, self.ROWS)
        splits = retrieval_splits(data, seed=seed, triplets=triplets, first_row=1)
        assert splits.images.identities.tolist() == [f"p{n - n % 3}" for n in range(60)]
        held = {*splits.test.gallery.tolist(), *splits.validation.gallery.tolist()}
        assert len(splits.test.query) == 3 * 4
        assert len(splits.validation.query) == 3 * 2
        expected = [row for row in self.ROWS if not held & set(row)]
        assert splits.listed.tolist() == [list(row) for row in expected]
        assert 0 < len(expected) < 280
        said = f"{len(expected)} of 280 listed triplets are trained on: {280 - len(expected)} show"
        assert said in splits.protocol
        assert "items are images that triplets join" in splits.protocol
        stream = ListedTriplets(splits.listed, seed=0)
        assert {stream[i] for i in range(len(expected))} == set(expected)
        assert retrieval_splits(**splits.request).fingerprint() == splits.fingerprint()
        fewer = retrieval_splits(data, seed=seed, triplets=self.less(triplets), first_row=1)
        assert fewer.fingerprint() != splits.fingerprint()

    def less(self, triplets):
        """The same but for one triplet for each query and positive: the items stay."""
        lines = triplets.read_text().splitlines()
        kept = [line for place, line in enumerate(lines) if place % 7]
        return write(triplets.with_name("less.txt"), "\n".join(kept))

    def test_a_column_of_items_is_kept(self, tmp_path):
        items = [f"i{n // 6}" for n in range(60)]
        rows = [*self.ROWS, (0, 2, 5), (6, 8, 9), (30, 31, 34), (59, 58, 54)]
        data, triplets = self.files(tmp_path, rows, items=items)
        splits = retrieval_splits(data, triplets=triplets, first_row=1)
        assert splits.images.identities.tolist() == items
        held = {*splits.test.gallery.tolist(), *splits.validation.gallery.tolist()}
        assert len(held) == 6 * 4
        free = [row for row in rows if not held & set(row)]
        expected = [row for row in free if items[row[0]] != items[row[2]]]
        assert 0 < len(expected) < len(free)
        assert splits.listed.tolist() == [list(row) for row in expected]
        assert f"{len(free) - len(expected)} have a negative of the query's" in splits.protocol
        assert "join" not in splits.protocol
        without = retrieval_splits(data)
        assert without.listed is None
        assert without.fingerprint() != splits.fingerprint()

    def test_refuses(self, tmp_path):
        data, triplets = self.files(tmp_path, self.ROWS)
        with pytest.raises(UsageError, match="first_row 1 applies to a file of triplets"):
            retrieval_splits(data, first_row=1)
        with pytest.raises(UsageError, match=r"18 \+ 2 items to hold out of 20"):
            retrieval_splits(data, triplets=triplets, first_row=1, test_items=18)
        # Of the two items that are left neither is the other's negative.
        rows = [(3 * i, 3 * i + 1, 3 * ((i + 10) % 20)) for i in range(20)]
        data, triplets = self.files(tmp_path, rows)
        options = {"triplets": triplets, "first_row": 1, "test_items": 10, "validation_items": 8}
        with pytest.raises(UsageError, match=r"none of 20 triplets is left .*20 show a"):
            retrieval_splits(data, **options)
        chain = [(i, i + 1, (i + 30) % 60) for i in range(59)]
        data, triplets = self.files(tmp_path, chain)
        with pytest.raises(UsageError, match=r"2 \+ 2 items .* of 1 .* triplets join"):
            retrieval_splits(data, triplets=triplets, first_row=1)
