"""The page of ``minivar serve`` in Chromium, driven by its debugging protocol; skipped where there is no Chromium."""

import base64
import re

import numpy as np
import pytest
from browser import needs_chromium, opened
from PIL import Image
from servers import drawn_alone, running

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def server():
    with running(most_images=8) as found:
        yield found


@pytest.fixture(scope="module")
def tab(server, tmp_path_factory):
    with opened(server.address, tmp_path_factory.mktemp("chromium")) as found:
        found.wait_for("document.querySelectorAll('.panel').length == 2")
        yield found


IDLE = "!document.querySelector('#draw').disabled"


def test_both_models_draw_the_class_side_by_side(tab):
    tab.wait_for(IDLE)  # the first pictures are drawn as the page opens
    assert tab.texts(".panel h2") == ["scales: VAR, scale by scale", "rows: GPT, row by row"]
    tab.value("""(document.querySelector("#class").value = "4", document.querySelector("#seed").value = "11",
        document.querySelector("#pace").value = "0", document.querySelector("#draw").click())""")
    tab.wait_for(IDLE)
    for i, (name, stages) in enumerate((("scales", 3), ("rows", 4))):
        shown = tab.pixels(f".panel:nth-child({i + 1}) .picture")
        assert np.abs(shown - drawn_alone(name, 4, 11)[0].numpy() * 255).max() < 1.01
        strip = tab.value(f"document.querySelectorAll('.panel:nth-child({i + 1}) .strip img').length")
        assert strip == stages
    scales, rows = tab.texts(".said")
    assert re.fullmatch(r"scale 3 of 3, 4 × 4 tokens, after [\d.]+ s", scales)
    assert re.fullmatch(r"row 4 of 4, 4 tokens, after [\d.]+ s", rows)
    assert tab.value("document.querySelector('#seed').value") == "12"  # ready for another
    half = tab.pixels(".panel:nth-child(2) .strip img:nth-child(2)")
    assert (half[8:] == 128).all() and not (half[:8] == 128).all()


def test_guidance_of_one_strength_is_one_less_in_vars_words(tab):
    tab.wait_for(IDLE)
    asked = tab.value("""(document.querySelector("#guidance").value = "3", panels.map(panel => asked(panel, 5)))""")
    assert asked == [{"model": "scales", "seed": 5, "cfg": 2}, {"model": "rows", "seed": 5, "cfg": 3}]
    tab.value("""document.querySelector("#guidance").value = "" """)
    shipped = tab.value("panels.map(panel => asked(panel, 5))")
    assert shipped == [{"model": "scales", "seed": 5}, {"model": "rows", "seed": 5}]


def test_a_sheet_is_drawn_and_too_large_a_one_refused_in_words(tab):
    tab.wait_for(IDLE)
    tab.value("(document.querySelector('#count').value = '3', document.querySelector('#sheet').click())")
    tab.wait_for(IDLE)
    assert all(said.startswith("3 pictures after") for said in tab.texts(".said"))
    assert tab.pixels(".panel:nth-child(2) .sheet").shape == (18, 3 * 17 + 1)
    tab.value("(document.querySelector('#count').value = '1000', document.querySelector('#sheet').click())")
    tab.wait_for(IDLE)
    assert set(tab.texts(".said.wrong")) == {"A request may ask for at most 8 images; got 1000: ask several times."}
    assert len(tab.texts(".said.wrong")) == 2


def test_a_failure_is_shown_where_the_picture_would_be(tab, server, monkeypatch):
    tab.wait_for(IDLE)
    monkeypatch.setattr(server.services["rows"].worker.engine, "images", lambda jobs: 1 / 0)
    tab.value("document.querySelector('#draw').click()")
    tab.wait_for(IDLE)
    assert re.fullmatch(r"Class 4 with seed \d+ could not be drawn: division by zero\.", tab.texts(".said.wrong")[0])
    assert tab.texts(".said")[0].startswith("scale 3 of 3")


def test_the_page_is_worth_looking_at(tab, tmp_path):
    """Nothing overflows, and the two pictures stand side by side."""
    tab.wait_for(IDLE)
    boxes = tab.value("""[...document.querySelectorAll(".picture")].map(picture => {
        const { left, right, top, width, height } = picture.getBoundingClientRect();
        return [left, right, top, width, height]; })""")
    (_, right, top, width, height), (left, _, other_top, _, _) = boxes
    assert right < left and top == other_top and width == height > 200
    assert tab.value("document.documentElement.scrollWidth <= window.innerWidth")
    path = tmp_path / "page.png"
    path.write_bytes(base64.b64decode(tab.ask("Page.captureScreenshot")["data"]))
    assert Image.open(path).width > 1000
