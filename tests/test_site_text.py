"""What the site is made of, as far as it needs no Sphinx: alternative texts, links, vendored files."""

import hashlib
import json
import lzma
import re
from pathlib import Path

import pytest

from docs import alt_text

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
VENDORED = ROOT / "docs" / "vendor"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_of_the_book_says_what_it_shows(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    shown = sum(
        any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])) for cell in notebook["cells"]
    )
    assert alt_text.describe(notebook) == shown > 0
    texts = [cell["metadata"].get("mystnb", {}).get("image", {}).get("alt") for cell in notebook["cells"]]
    for text in filter(None, texts):
        assert text.startswith("Figure: ") and len(text.split()) >= 4, text
        assert len(text) < 500 and not re.search(r"[`{}]", text), text


def test_a_figure_is_told_by_its_title_and_by_what_its_function_draws():
    given = alt_text.of_code('figure = plots.image_grid(samples, "Samples of the model: good ones?")')
    assert given == "Figure: Samples of the model: good ones? Small pictures in rows and columns."
    computed = alt_text.of_code(
        'figure = plots.image_grid(samples, f"A {digit} appears, scale by scale", rows=["a name"])'
    )
    assert computed.startswith("Figure: A … appears, scale by scale. ")
    named = alt_text.of_code('plots.image_grid(title="The same images twice", images=both, rows="no title at all")')
    assert named.startswith("Figure: The same images twice. ")


def test_a_figure_without_a_title_is_told_by_its_section():
    assert alt_text.of_code("ax.plot(x, y)", "3 · How the loss falls") == "Figure: 3 · How the loss falls."
    markdown = "# 01 · Title\n\ntext\n\n## 1 · A section"
    assert alt_text.heading_in(markdown, "before") == "1 · A section"
    assert alt_text.heading_in("no heading", "before") == "before"


def test_a_cell_that_describes_its_figure_is_believed():
    output = {"data": {"image/png": ""}}
    mine = {"mystnb": {"image": {"alt": "two lines that cross"}}}
    cell = {"cell_type": "code", "source": ["plots.curves()"], "metadata": mine, "outputs": [output]}
    alt_text.describe({"cells": [cell]})
    assert cell["metadata"]["mystnb"]["image"]["alt"] == "two lines that cross"


def test_the_runtime_is_the_one_that_its_card_names():
    sums = re.findall(r"`([0-9a-f]{64})`", (VENDORED / "README.md").read_text(encoding="utf-8"))
    packed = VENDORED / "onnxruntime-web" / "ort-wasm-simd-threaded.wasm.xz"
    assert packed.stat().st_size < 4e6
    assert [hashlib.sha256(lzma.decompress(packed.read_bytes())).hexdigest()] == sums
    assert "MIT License" in (VENDORED / "onnxruntime-web" / "LICENSE").read_text(encoding="utf-8")


def test_every_page_beside_the_book_is_in_the_list():
    """Sphinx calls a page that is in no list an error, and Sphinx is not installed everywhere."""
    from docs.build_site import PAGES

    found = {path.relative_to(ROOT).with_suffix("").as_posix() for pattern in PAGES for path in ROOT.glob(pattern)}
    listed = re.findall(r"```\{toctree\}.*?```", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    listed = set(re.findall(r"^(?:.* <)?([\w/.-]+)>?$", "\n".join(listed), re.MULTILINE))
    assert found - {"docs/index"} <= listed
