"""The code of the pages runs as it stands."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def run(page):
    """The namespace that a page's code leaves."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    namespace = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return namespace


def test_interactive_page(capsys):
    namespace = run("interactive.md")
    assert 0 <= namespace["verification"].auc(namespace["curve"]) <= 1
    assert "raw pixels" in capsys.readouterr().out


def test_normxcorr_page(capsys):
    namespace = run("normxcorr.md")
    assert namespace["mapped"].shape == (4, 37, 12, 1500)
    assert namespace["near"].shape == (4, 37, 12, 25 * 5 * 7)
    assert float(capsys.readouterr().out.split()[0]) < 1e-5


def test_pretrained_page():
    namespace = run("pretrained.md")
    assert namespace["distance"].shape == (2,)
    assert namespace["embeddings"].shape == (4, 64)


def test_no_placeholder_is_left():
    for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        assert not re.findall(r"@[A-Z]+@", page.read_text()), page
