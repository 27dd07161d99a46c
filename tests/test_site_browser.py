"""The site in Chromium: every page opens without a complaint, and the first page draws what Python draws.

Skipped without Chromium, and where the site cannot be built. Screenshots go to the folder ``MINIVAR_SCREENSHOTS``, if
it is named, to be looked at.
"""

import base64
import functools
import http.server
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from browser import Tab, needs_chromium, opened
from test_site_pages import pages, site  # noqa: F401  (fixtures)
from uniforms import drawn_with, uniforms

from docs import export_onnx
from minivar import checkpoints, sampling
from minivar.data import DATA_ROOT

pytestmark = [pytest.mark.slow, needs_chromium]
READY = "document.body?.dataset.live == 'ready'"
SIZES = {"desk": (1280, 1000), "phone": (390, 844)}


class Quietly(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without a line on the terminal for each."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):  # noqa: F811
    handler = functools.partial(Quietly, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def tab(address, tmp_path_factory):
    with opened("about:blank", tmp_path_factory.mktemp("chromium")) as found:
        for domain in ("Page", "Runtime", "Log", "Network"):
            found.ask(f"{domain}.enable")
        yield found


def visit(tab: Tab, address: str, size: str = "desk", scheme: str = "light") -> None:
    """Open a page and wait until it is laid out, formulas included."""
    width, height = SIZES[size]
    phone = size == "phone"
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
    tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.ask("Page.navigate", url=address)
    tab.wait_for(f"location.href == {address!r} && document.readyState == 'complete'")
    tab.value("window.MathJax?.startup?.promise")


def complaints(tab: Tab) -> list[str]:
    """Errors and warnings of the console, exceptions, and requests that failed, since the last call."""
    found = []
    for event in tab.events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
            found.append(json.dumps(given["args"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            found.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            found.append(json.dumps(given["exceptionDetails"]))
        elif method == "Network.responseReceived" and given["response"]["status"] >= 400:
            found.append(f"{given['response']['status']} {given['response']['url']}")
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith(
            ("http://127", "data:", "blob:")
        ):
            found.append(f"asked for {given['request']['url']}")
    tab.events.clear()
    return found


def keep(tab: Tab, name: str) -> None:
    """A screenshot, where somebody wants them."""
    if folder := os.environ.get("MINIVAR_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.png").write_bytes(base64.b64decode(tab.ask("Page.captureScreenshot")["data"]))


def test_every_page_opens_without_a_complaint(tab, address, site, pages):  # noqa: F811
    wrong = []
    for path in pages:
        name = path.relative_to(site).as_posix()
        visit(tab, f"{address}/{name}")
        if name == "index.html":
            tab.wait_for(READY)
        blind = tab.value("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
        formulas = tab.value("""['.math', 'mjx-container', 'mjx-merror, [data-mjx-error]'].map(
            selector => document.querySelectorAll(selector).length)""")
        if formulas[0] > formulas[1] or formulas[2]:
            wrong.append(f"{name}: of {formulas[0]} formulas {formulas[1]} are set, {formulas[2]} of them wrongly")
        wrong += [f"{name}: {said}" for said in (*complaints(tab), *blind)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_pages_fit_the_window_in_light_and_dark(tab, address, size, scheme):
    for name in ("index", "notebooks/05_next_scale", "notebooks/09_judging", "docs/notation", "README"):
        visit(tab, f"{address}/{name}.html", size, scheme)
        if name == "index":
            tab.wait_for(READY)
        assert tab.value("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} is too wide: {size}"
        red, green, blue = tab.value("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")[
            :3
        ]
        assert (red + green + blue > 384) == (scheme == "light")
        keep(tab, f"{name.split('/')[-1]}-{size}-{scheme}")
    complaints(tab)


def test_search_finds_a_word(tab, address):
    visit(tab, f"{address}/search.html?q=nucleus")
    tab.wait_for("document.querySelectorAll('#search-results li').length > 0")
    assert any("Sampling" in text for text in tab.texts("#search-results li"))
    assert not complaints(tab)


@pytest.fixture(scope="module")
def first(tab, address):
    """The first page, with its models loaded."""
    visit(tab, f"{address}/index.html")
    tab.wait_for(READY)
    complaints(tab)
    return tab


def settled(tab: Tab, script: str) -> None:
    """Do something to the first page, and wait until its drawings are finished."""
    tab.value(f"(document.body.dataset.live = 'asked', {script}, 1)")
    tab.wait_for(READY)


def codes(tab: Tab, panel: str) -> list[int]:
    """The tokens that a panel shows."""
    return [int(text) for text in tab.texts(f"#live-{panel} .live-cell")]


def drawn_in_page(tab: Tab, model: str, step: str, **asked: object) -> list[int]:
    """The tokens of a drawing by the page's own loop."""
    script = f"""(async () => {{
        const tokens = [];
        for await (const step of minivar.draw({model!r}, {json.dumps(asked)})) tokens.push({step});
        return tokens.flat();
    }})()"""
    return tab.value(script)


@pytest.mark.parametrize("label, guidance, top_p", [(3, 1.0, 1.0), (8, 2.5, 1.0), (5, 2.0, 0.7), (0, 4.0, 0.35)])
def test_the_same_numbers_draw_the_same_tokens_as_in_python(first, label, guidance, top_p):
    labels = torch.tensor([label])
    tokenizer, var, _ = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.SCALES)
    numbers = uniforms(30, 1)
    settings = {"cfg": guidance - 1, "top_p": top_p if top_p < 1 else 0.0}
    wanted = drawn_with(numbers, lambda: sampling.sample(var, tokenizer, labels, **settings)).tokens[0]
    asked = {"label": label, "guidance": guidance, "topP": top_p}
    found = drawn_in_page(first, "scales", "step.tokens", numbers=torch.cat(numbers).tolist(), **asked)
    assert found == wanted.tolist()

    tokenizer, gpt, _ = checkpoints.load_pair(DATA_ROOT / "checkpoints" / export_onnx.RASTER)
    numbers = uniforms(49, 1)
    settings = {"cfg": guidance, "top_p": top_p}
    wanted = drawn_with(numbers, lambda: sampling.sample_raster(gpt, tokenizer, labels, **settings)).tokens[0]
    found = drawn_in_page(first, "raster", "step.token", numbers=torch.cat(numbers).tolist(), **asked)
    assert found == wanted.tolist()


def test_a_class_is_drawn_with_both_clocks_running(first):
    before = codes(first, "scales"), codes(first, "raster")
    settled(first, "document.querySelectorAll('.live-class')[4].click()")
    after = codes(first, "scales"), codes(first, "raster")
    assert [len(tokens) for tokens in after] == [30, 49] and before[0] != after[0] and before[1] != after[1]
    assert first.texts(".live-step") == ["scale 4 of 4", "token 49 of 49"]
    assert all(float(text.split()[0]) > 0 for text in first.texts(".live-time"))
    inked = first.value("""[...document.querySelectorAll('.live-picture')].map(canvas =>
        canvas.getContext('2d').getImageData(0, 0, 28, 28).data.filter((v, i) => i % 4 == 0 && v > 128).length)""")
    assert all(20 < count < 500 for count in inked)  # of 784 pixels: a digit
    keep(first, "drawn")


def test_sliders_change_the_drawing_and_bring_it_back(first):
    def slide(name: str, value: float) -> None:
        settled(first, f"(e => {{ e.value = {value}; e.dispatchEvent(new Event('input')); }})({name})")

    slider = "document.querySelector('#live-guidance')"
    slide(slider, 2)
    before = codes(first, "scales"), codes(first, "raster")
    slide(slider, 5)
    assert codes(first, "raster") != before[1] and first.texts("#live-guidance-said") == ["5.0"]
    slide(slider, 2)
    assert (codes(first, "scales"), codes(first, "raster")) == before
    slide("document.querySelector('#live-topp')", 0.05)  # the likeliest code alone, whatever the seed
    alone = codes(first, "scales")
    settled(first, "document.querySelector('#live-ask').requestSubmit()")
    assert first.value("document.querySelector('#live-seed').value") == "3" and codes(first, "scales") == alone
    slide("document.querySelector('#live-topp')", 1)
    assert codes(first, "scales") != alone


def test_a_token_is_clicked_and_changed(first):
    before = codes(first, "scales")
    cell = "document.querySelectorAll('#live-scales .live-cell')[2]"  # scale 2, row 1, column 2
    first.value(f"({cell}.click(), 1)")
    first.wait_for("document.querySelectorAll('.live-candidate').length > 1")
    assert first.texts("#live-token-title") == ["Scale 2, row 1, column 2"]
    keep(first, "token")
    settled(
        first,
        "(document.querySelector('#live-code').value = 77, document.querySelector('#live-change').requestSubmit())",
    )
    anew = codes(first, "scales")
    assert anew[2] == 77 and anew[:2] == before[:2] and anew[3:5] == before[3:5] and anew[5:] != before[5:]
    settled(first, "document.querySelector('#live-undo').click()")
    assert codes(first, "scales") == before
    settled(
        first,
        """(document.querySelector('#live-anew').checked = false, document.querySelector('#live-code').value = 77,
        document.querySelector('#live-change').requestSubmit())""",
    )
    assert codes(first, "scales") == [*before[:2], 77, *before[3:]]
    settled(first, "document.querySelector('#live-undo').click()")
    first.value("(document.querySelectorAll('#live-raster .live-cell')[20].click(), 1)")
    settled(
        first,
        """(document.querySelector('#live-anew').checked = true, document.querySelector('#live-code').value = 5,
        document.querySelector('#live-change').requestSubmit())""",
    )
    assert codes(first, "raster")[20] == 5 and codes(first, "scales") == before
    assert not complaints(first)
