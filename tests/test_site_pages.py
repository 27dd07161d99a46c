"""The built site, read as files: links and pictures are there, nothing is fetched from elsewhere, figures have words.

``MINIVAR_SITE`` names a site that is built already (``make test-site``); without it one is built, in half a minute.
"""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx", reason="needs Sphinx (the extra site: make site installs it)")
pytest.importorskip("myst_nb", reason="needs MyST-NB (the extra site: make site installs it)")
pytest.importorskip("onnxscript", reason="needs onnxscript (the extra site: make site installs it)")

from docs import build_site  # noqa: E402  (needs nothing of the above, but is of no use without it)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
FETCHED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page refers to, the names of its parts, and its pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.fetched, self.names, self.images = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(given[FETCHED[tag]])
        if tag == "img":
            self.images.append(given)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if built := os.environ.get("MINIVAR_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site") / "site"
    build_site.build(folder)
    return folder


@pytest.fixture(scope="module")
def pages(site):
    found = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    return {path: page for path, page in found.items() if "_static" not in path.relative_to(site).parts}


def test_every_notebook_and_card_has_a_page(site, pages):
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {path.stem for path in pages if path.parent.name == "notebooks"}
    for name in ("index", "search", "README", "docs/notation", "docs/questions", "data/DIGITS", "CHANGELOG"):
        assert site / f"{name}.html" in pages


def test_no_link_is_broken(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.fetched:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            named = parts.fragment and target in pages and target.name not in ("search.html", "genindex.html")
            if not target.exists() or (named and unquote(parts.fragment) not in pages[target].names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


def test_nothing_is_fetched_from_elsewhere(site, pages):
    """A page may link to a paper; whatever it shows, runs or is styled by comes from the site."""
    away = [f"{path.name}: {address}" for path, page in pages.items() for address in page.fetched if "//" in address]
    assert not away
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?https?:", path.read_text(encoding="utf-8")), path
    for path in (site / "_static" / "live").glob("*.js"):
        assert "http" not in path.read_text(encoding="utf-8").replace("http.server", ""), path


def test_every_picture_has_words(site, pages):
    pictures = [(path, image) for path, page in pages.items() for image in page.images]
    assert len(pictures) > 100
    wordless = [f"{path.name}: {image}" for path, image in pictures if len((image.get("alt") or "").split()) < 3]
    assert not wordless, "\n".join(wordless)


def test_chapters_follow_each_other(site, pages):
    order = sorted(path for path in pages if path.parent.name == "notebooks")
    for before, after in zip(order, order[1:]):
        assert f'class="next-page" href="{after.name}"' in before.read_text(encoding="utf-8")
        assert f'class="prev-page" href="{before.name}"' in after.read_text(encoding="utf-8")


def test_the_runtime_comes_with_its_licences(site):
    runtime = site / "_static" / "live" / "ort"
    assert "Apache License" in (site / "_static" / "mathjax" / "LICENSE").read_text(encoding="utf-8")
    assert (runtime / "LICENSE").stat().st_size > 500 and (runtime / "ThirdPartyNotices.txt").stat().st_size > 1e5
    sizes = json.loads((site / "_static" / "live" / "files.json").read_text(encoding="utf-8"))
    assert sum(sizes.values()) < 20e6  # what a reader downloads
    assert all((site / "_static" / "live" / name).stat().st_size == size < 24e6 for name, size in sizes.items())


def test_the_first_page_leads_to_the_same_places_from_the_top_as_from_its_folder():
    text = "[a](../notebooks/x.ipynb) [b](notation.md#signs) [c](live/view.js) [d](https://example.org)"
    found = build_site.moved_up(text)
    assert (
        found
        == "[a](notebooks/x.ipynb) [b](docs/notation.md#signs) [c](_static/live/view.js) [d](https://example.org)"
    )


def test_links_to_folders_become_words_and_files_come_along(tmp_path):
    text = "[scripts](../experiments) and [one](../data/build_digits.py) and [away](https://example.org) ![p](x.png)"
    found = build_site.with_links(text, Path("docs"), tmp_path)
    assert found == "scripts and [one](../data/build_digits.py) and [away](https://example.org) ![p](x.png)"
    assert (tmp_path / "data" / "build_digits.py").is_file()
