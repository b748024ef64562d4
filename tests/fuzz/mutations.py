"""One mutator for each format: the same random generator always gives the same damage.

A tree is a dict from a file's path to its bytes, or to one of the things that are no files.
"""

import io
import json
import pickletools
import random
import re
import zipfile
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePosixPath


class NoFile(Enum):
    """What may stand where a file is expected."""

    FOLDER = "folder"
    PIPE = "pipe"
    ZERO = "link to /dev/zero"
    LOOP = "link to itself"
    NOWHERE = "broken link"


Tree = dict[str, bytes | NoFile]

WORDS = (
    *("", " ", "0", "-1", "1.5", "nan", "-inf", "1e400", "²", "٣", "1_0", "0x1"),
    *("9" * 19, "7" * 5000, "x" * 300, "y" * 200_000),
    *(
        "a\0b",
        "\r",
        "\x1b[2J",
        "\u2028",
        "\u202e",
        "é",
        "e\u0301",
        "孫",
        "\udcff",
        "$x^$",
        "%s",
        "{0}",
    ),
    *('"', '""', ",", ";", "\t", "#", "../outside", "/etc/passwd", "~", ".", ".."),
    *("null", "true", "[]", "evil_module:Thing", "os:system", "antigravity:x"),
)
VALUES = (
    *(None, True, 0, -1, 1, 2.5, 2**31, 2**63, -(2**63), 10**20, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [None], [-1], ["x"], [10**20, 1], {"a": 1}, {"dtype": "x"}, {"dict": {}}),
    *({"class": "evil_module:Thing"}, {"import": "os:system"}, *WORDS),
)
NUMBERS = (
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few bits, a byte, a number or a stretch of the file changed, or its end cut off."""
    data, size = bytearray(content), len(content)
    if not size:
        return b"\0" * rng.choice((1, 100))
    at, stretch = rng.randrange(size), rng.choice((1, 8, 64, 512))
    match rng.randrange(8):
        case 0:
            for place in rng.choices(range(size), k=rng.choice((1, 3, 9))):
                data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            wide, order = rng.choice((2, 4, 8)), rng.choice(("little", "big"))
            number = rng.choice(NUMBERS) % (1 << 8 * wide)
            data[at : at + wide] = number.to_bytes(wide, order)
        case 3:
            del data[at:]
        case 4:
            del data[at : at + stretch]
        case 5:
            data[at:at] = data[at : at + stretch]
        case 6:
            data[at:at] = rng.randbytes(stretch)
        case _:
            data[at : at + stretch] = data[: len(data[at : at + stretch])]
    return bytes(data)


def mutated_text(rng: random.Random, content: bytes) -> bytes:
    """Lines or fields moved, doubled, left out or replaced by odd words; another encoding."""
    text = content.decode("utf-8", "surrogateescape")
    lines, word = text.splitlines(keepends=True) or [""], rng.choice(WORDS)
    at = rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            return mutated_bytes(rng, content)
        case 1:
            return rng.choice((b"\xef\xbb\xbf" + content, text.encode("utf-16", "replace")))
        case 2:
            rng.shuffle(lines)
        case 3:
            lines[at:at] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 2))
        case 4:
            lines[at] = rng.choice(("", word + "\n", lines[at].rstrip("\n")))
        case 5:
            lines = [
                text.replace(rng.choice(",; \t\n/"), rng.choice((",", ";", "\t", "\r\n", "\0")))
            ]
        case _:
            parts = re.split(r"([,;\s/_.]+)", lines[at])
            field = rng.randrange(0, len(parts), 2)
            parts[field] = rng.choice((word, parts[field] + word))
            lines[at] = "".join(parts)
    return "".join(lines).encode("utf-8", "surrogatepass")


def mutated_json(rng: random.Random, content: bytes) -> bytes:
    """A value of it replaced, left out, or found under another key; nested without end; or text."""
    if rng.random() < 0.3:
        return rng.choice((mutated_text(rng, content), b"[" * 50_000, b'{"a":' * 50_000))
    whole = [json.loads(line) for line in content.splitlines()] if _many(content) else None
    value = whole if whole is not None else json.loads(content)
    owner, key = rng.choice(list(_places(value)) or [([value], 0)])
    match rng.randrange(5):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice(WORDS)] = owner.pop(key)
        case _:
            owner[key] = rng.choice(VALUES)
    if whole is None:
        return json.dumps(value).encode()
    return "".join(json.dumps(row) + "\n" for row in whole).encode()


def _many(content: bytes) -> bool:
    """Whether it is JSON lines."""
    return content.startswith(b"{") and content.strip().endswith(b"}") and b"\n{" in content


def _places(value):
    """(owner, key) of every value in a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(pairs):
        yield value, key
        if isinstance(one, (dict, list)):
            yield from _places(one)


def mutated_zip(rng: random.Random, content: bytes) -> bytes:
    """A member of the archive mutated, renamed, doubled or left out; or its bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at = rng.randrange(len(members))
    name, inside = members[at]
    match rng.randrange(5):
        case 0:
            members[at] = rng.choice(WORDS).replace("\0", "0")[:60_000] or "x", inside
        case 1:
            del members[at]
        case 2:
            members.append((name, mutated_bytes(rng, inside)))
        case _:
            members[at] = name, mutated(rng, name, inside)
    out = io.BytesIO()
    packing = rng.choice((*[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED] * 3, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, inside in members:
            if name.isascii() or name.isprintable():
                archive.writestr(zipfile.ZipInfo(name), inside, archive.compression)
    return out.getvalue()


HEADERS = (
    *("'descr': '|O'", "'descr': '<U9'", "'descr': '>f8'", "'descr': [('a', '<f4')]", "'descr': 5"),
    *(
        "'shape': (99999999999, 3)",
        "'shape': (-1,)",
        "'shape': (True,)",
        "'shape': ()",
        "'shape': 1",
    ),
    *("'fortran_order': 0", "'fortran_order': True", "'more': 1", "[" * 5000, "(" * 90 + ")" * 90),
)


def mutated_npy(rng: random.Random, content: bytes) -> bytes:
    """A field of an array's header replaced; or bytes."""
    length = int.from_bytes(content[8:10], "little")
    if rng.random() < 0.4 or content[:6] != b"\x93NUMPY":
        return mutated_bytes(rng, content)
    text, new = content[10 : 10 + length].decode("latin-1"), rng.choice(HEADERS)
    key = new.partition(":")[0]
    text = re.sub(rf"{re.escape(key)}: (\([^)]*\)|[^,]*)", lambda _: new, text)
    text = text if new in text else new
    return content[:8] + len(text).to_bytes(2, "little") + text.encode() + content[10 + length :]


STEPS = (
    *(b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"(ios\nsystem\n", b"R", b"\x81", b"b"),
    *(b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x0f", b"X\xff\xff\xff\x7f", b"h\x00", b"0"),
    *(
        b"J\xff\xff\xff\x7f",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"(",
        b"t",
        b"}",
        b"N",
        b"Q",
        b".",
    ),
)


def mutated_pickle(rng: random.Random, content: bytes) -> bytes:
    """An instruction of a pickle replaced, left out, doubled or put in; or bytes."""
    places = [place for _, _, place in pickletools.genops(content) if place is not None]
    if rng.random() < 0.3 or len(places) < 2:
        return mutated_bytes(rng, content)
    at = rng.randrange(len(places) - 1)
    start, end = places[at : at + 2]
    own = content[start:end]
    new = rng.choice((b"", own + own, own + rng.choice(STEPS), *[rng.choice(STEPS)] * 3))
    return content[:start] + new + content[end:]


MUTATORS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    **dict.fromkeys((".json", ".jsonl"), mutated_json),
    **dict.fromkeys((".csv", ".tsv", ".txt"), mutated_text),
    **dict.fromkeys((".zip", ".npz", ".pth"), mutated_zip),
    **{".npy": mutated_npy, ".pkl": mutated_pickle},
}


def mutated(rng: random.Random, name: str, content: bytes) -> bytes:
    """A file damaged by the mutator of its format, one to three times."""
    mutator = MUTATORS.get(PurePosixPath(name).suffix, mutated_bytes)
    for _ in range(rng.choice((1, 1, 2, 3))):
        try:
            content = mutator(rng, content)
        except Exception:
            content = mutated_bytes(rng, content)  # damage has made it a file of another format
    return content


def mutated_tree(rng: random.Random, tree: Tree) -> Tree:
    """A tree with one file damaged, left out, renamed, or replaced by what is no file."""
    tree = dict(tree)
    name = rng.choice([name for name, content in tree.items() if isinstance(content, bytes)])
    content = tree[name]
    assert isinstance(content, bytes)
    match rng.randrange(12):
        case 0:
            tree[name] = rng.choice(list(NoFile))
        case 1:
            del tree[name]
        case 2:
            called = re.sub(r"[/\0]", "_", rng.choice(WORDS))[:100].strip(".") or "x"
            tree[str(PurePosixPath(name).with_name(called))] = tree.pop(name)
        case _:
            tree[name] = mutated(rng, name, content)
    return tree


def write_tree(folder: Path, tree: Tree) -> None:
    """Write a tree below a folder."""
    import os

    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match content:
            case NoFile.FOLDER:
                path.mkdir(exist_ok=True)
            case NoFile.PIPE:
                os.mkfifo(path)
            case NoFile.ZERO:
                path.symlink_to("/dev/zero")
            case NoFile.LOOP:
                path.symlink_to(path)
            case NoFile.NOWHERE:
                path.symlink_to(folder / "nowhere")
            case _:
                path.write_bytes(content)
