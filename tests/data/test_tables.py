"""Tables as people save them: separators, quotes, blank lines, encodings, and what is refused."""

import os
import unicodedata

import pytest

from siamjax.data.tables import read_table
from siamjax.errors import UsageError


@pytest.fixture
def table(tmp_path):
    """Makes a table beside the images a.png and b.png, and reads it."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")

    def read(text):
        path = tmp_path / "items.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_table(path)

    return read


PLAIN = "image,item,note\na.png,x,one\nb.png,y,two\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        "\ufeff" + PLAIN,
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        "\n\n" + PLAIN.replace("\nb", "\n\n   \n,,\nb") + ",,\n,,\n\n",
        ",,\n" + PLAIN,
        PLAIN.replace("\n", "\n,,\n"),
        "Image , ITEM,Note \n a.png , x,one\nb.png,y, two\n",
        PLAIN.replace("one", '"one"').replace("item", '"item"'),
        PLAIN.removesuffix("\n"),
    ],
)
def test_every_way_to_save_a_table(table, text):
    catalogue = table(text)
    assert catalogue.images.keys == ("a.png", "b.png")
    assert catalogue.images.identities.tolist() == ["x", "y"]
    assert catalogue.attributes["note"].tolist() == ["one", "two"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quoted_cells_hold_any_separator_and_line_breaks(table, separator):
    names = ["image", "item", '"size, colour; in\tcm\nand ""a, b, c, d"", ;;;;\t\t\t\t,,,,"']
    rows = [names, ["a.png", "x", '"1, 2; 3\t4"'], ["b.png", "y", '"two\nlines, ""said"""']]
    catalogue = table("\n".join(separator.join(row) for row in rows))
    (column,) = catalogue.attributes.values()
    assert column.tolist() == ["1, 2; 3\t4", 'two\nlines, "said"']


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_breaks_end_a_line(table, mark):
    note = table(PLAIN.replace("one", f"one{mark}1")).attributes["note"]
    assert note.tolist() == [f"one{mark}1", "two"]
    assert table(PLAIN.replace("note", f"no{mark}te")).attributes.keys() == {f"no{mark}te"}


def test_lines_are_counted_as_an_editor_counts_them(table):
    for text, line in (
        ("image,item\na.png,x\n\n,,\nb.png\n", 5),
        ('image,item\n"a.png","x\ny"\nb.png\n', 4),
        ("\n\nimage,item\r\na.png,x\r\nb.png,x,x\r\n", 5),
    ):
        with pytest.raises(UsageError, match=f"items.csv, line {line}: not 2 columns"):
            table(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,item,note,note\na.png,x,1,2\n", "line 1: two columns are called note"),
        ("image,Note,note \na.png,x,1\n", "line 1: two columns are called note"),
        ("item,note\nx,1\n", "line 1: no column for the image"),
        (b"image,item\na.png,caf\xe9\n", "line 2: not UTF-8; save the table as UTF-8"),
        (PLAIN.encode("utf-16"), "not UTF-8|not text"),
        ("id,image\na,a.png\na\0,b.png\n", r"line 3: not text \(a NUL\)"),
        ("id,image\n1,a.png\n\0,a.png\n", r"line 3: not text \(a NUL\)"),
        ('image,item\na.png,"x\n', "line 2: .*mend its quotes"),
        (f"image,item\na.png,{'x' * 200_000}\n", "line 2: field larger"),
        ("\n\n,,\n", "an empty table"),
        ("", "an empty table"),
        ("image,item\n", "a table without rows"),
    ],
)
def test_refuses(table, text, message):
    with pytest.raises(UsageError, match=message) as error:
        table(text)
    assert "items.csv" in str(error.value)


def test_a_table_of_50000_columns_is_read_at_once(table):
    names = ",".join(["image", *map(str, range(50_000))])
    row = "a.png" + "," * 50_000
    assert len(table(f"{names}\n{row}\n").attributes) == 50_000
    with pytest.raises(UsageError, match="two columns are called 7"):
        table(f"{names},7\n{row},\n")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_files_are_tables(tmp_path, kind):
    path = tmp_path / "items.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(UsageError, match=r"items.csv: expected a file, and it is a"):
        read_table(path)


def test_images_are_found_in_either_form_of_their_names(table, tmp_path):
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        name = unicodedata.normalize(form, f"é{form}.png")
        (tmp_path / name).write_bytes(b"content")
        images = table(f"image\n{unicodedata.normalize(other, name)}\n").images
        assert images.source[0] == b"content"


def test_a_row_whose_image_is_no_file_is_named_when_it_is_read(table, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (
        ("/dev/zero", "it is a device"),
        ("pipe.png", "it is a named pipe"),
        ("/proc", "it is a folder"),
        ("x" * 300, "cannot be read"),
    ):
        images = table(f"image\na.png\n{name}\n").images
        with pytest.raises(UsageError, match=why):
            images.image(1)
