"""The book as a web site: ``python -m docs.build_site FOLDER`` (``make site`` writes build/site).

Nothing is executed and nothing is fetched: the pages are the committed notebooks with their outputs, the models of
the first page are exported from the shipped checkpoints, and what others wrote comes from ``docs/vendor`` and from
installed packages. Sources are first gathered beside the site, in FOLDER-source, laid out like the repository, so
that links between notebooks, cards and code mean the same in both.
"""

import argparse
import gzip
import importlib.util
import json
import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path

from docs import alt_text, export_onnx

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("docs/*.md", "data/*.md", "data/checkpoints/*.md", "plugins/*/*.md", "*.md")
FIGURES = "data/figures/*.png"
VENDOR = ROOT / "docs" / "vendor"
RUNTIME = VENDOR / "onnxruntime-web"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")  # [text](path#anchor), no picture


def gather(source: Path) -> None:
    """Copy what the pages are made of into ``source``, which begins empty."""
    shutil.rmtree(source, ignore_errors=True)
    for pattern in (*PAGES, FIGURES):
        for path in sorted(ROOT.glob(pattern)):
            copy(path, source)
    for path in sorted(source.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        path.write_text(with_links(text, path.relative_to(source).parent, source), encoding="utf-8")
    first = source / "docs" / "index.md"
    (source / "index.md").write_text(moved_up(first.read_text(encoding="utf-8")), encoding="utf-8")
    first.unlink()
    (source / "notebooks").mkdir(exist_ok=True)
    chapters = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        alt_text.describe(notebook)
        (source / "notebooks" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
        chapters.append(chapter_line(path.name, notebook))
    (source / "chapters.txt").write_text("\n".join(chapters) + "\n", encoding="utf-8")


def copy(path: Path, source: Path) -> None:
    """A file of the repository to its place in ``source``."""
    target = source / path.relative_to(ROOT)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def with_links(text: str, folder: Path, source: Path) -> str:
    """The text of a page in ``folder``; files that it links to come along, links to folders become words."""

    def mended(link: re.Match) -> str:
        target = (ROOT / folder / link[2]).resolve()
        if target.is_file():
            copy(target, source)
        return link[1] if target.is_dir() else link[0]

    return LINK.sub(mended, text)


def moved_up(text: str) -> str:
    """The first page, whose links start from ``docs``, for the top of the site; its code is in ``_static`` there."""

    def mended(link: re.Match) -> str:
        target = (ROOT / "docs" / link[2]).resolve().relative_to(ROOT).as_posix()
        place = target.replace("docs/live", "_static/live") + (link[3] or "")
        return f"[{link[1]}]({place})"

    return LINK.sub(mended, text)


def chapter_line(name: str, notebook: dict) -> str:
    """Title and promise of a chapter, which its first cell begins with, as an entry of a definition list."""
    title, promise = "".join(notebook["cells"][0]["source"]).split("\n\n")[:2]
    return f"[{title.lstrip('# ').strip()}](notebooks/{name})\n: {promise.strip().strip('*')}\n"


def gather_assets(source: Path) -> None:
    """Models, runtime and formulas, into the folder that the site serves as it is."""
    live = source / "_static" / "live"
    shutil.copytree(ROOT / "docs" / "live", live)
    export_onnx.export(live / "models")
    export_onnx.packed(live / "models")
    (live / "ort").mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "LICENSE"):
        shutil.copyfile(RUNTIME / name, live / "ort" / name)
    (live / "ort" / "ThirdPartyNotices.txt").write_bytes(lzma.decompress(vendored("ThirdPartyNotices.txt")))
    wasm = lzma.decompress(vendored("ort-wasm-simd-threaded.wasm"))
    (live / "ort" / "ort-wasm-simd-threaded.wasm.gz").write_bytes(gzip.compress(wasm, 9, mtime=0))
    sizes = {str(path.relative_to(live).as_posix()): path.stat().st_size for path in sorted(live.rglob("*.gz"))}
    (live / "files.json").write_text(json.dumps(sizes, indent=1), encoding="utf-8")

    mathjax = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    fonts = Path("output", "chtml", "fonts", "woff-v2")
    shutil.copytree(mathjax / fonts, source / "_static" / "mathjax" / fonts)
    shutil.copyfile(mathjax / "tex-chtml.js", source / "_static" / "mathjax" / "tex-chtml.js")
    shutil.copyfile(VENDOR / "mathjax" / "LICENSE", source / "_static" / "mathjax" / "LICENSE")


def vendored(name: str) -> bytes:
    """A compressed file of the runtime, as it was."""
    return (RUNTIME / f"{name}.xz").read_bytes()


def build(site: Path, strict: bool = True) -> None:
    """Write the site to the folder ``site``; ``strict``: a warning of Sphinx is an error."""
    source = site.with_name(f"{site.name}-source")
    gather(source)
    gather_assets(source)
    doctrees = site.with_name(f"{site.name}-doctrees")
    for old in (site, doctrees):
        shutil.rmtree(old, ignore_errors=True)
    warnings = ["-W", "--keep-going"] if strict else []
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", *warnings]
    subprocess.run([*command, "-c", ROOT / "docs", "-d", doctrees, source, site], check=True)
    (site / ".nojekyll").touch()  # GitHub's pages would leave out folders that begin with an underscore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    build(folder)
    megabytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"The site is in {folder} ({megabytes:.0f} MB).")
    print(f"Look at it with: python3 -m http.server --bind 127.0.0.1 --directory {folder} 8001")


if __name__ == "__main__":
    main()
