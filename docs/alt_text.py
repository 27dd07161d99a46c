"""What a figure of the book says to somebody who cannot see it: its title, and what its function draws.

The figures are pixels, but the cells that drew them name their titles, and the functions of ``minivar.book.plots``
say in their first line what they draw. A cell that knows better says so in its metadata,
``{"mystnb": {"image": {"alt": "..."}}}``, which is where MyST-NB looks.
"""

import ast
import re
from functools import cache
from pathlib import Path

PLOTS = Path(__file__).resolve().parents[1] / "minivar" / "book" / "plots"
TITLES = ("title", "suptitle", "set_title", "heading")  # keywords and methods that give a figure its title
# Where the docstring speaks to whoever calls the function, and not of what one sees.
PLAINLY = {
    "image_grid": "Small pictures in rows and columns",
    "system": "A diagram of the whole system in which the parts that this chapter is about are coloured",
}
SHAPE = re.compile(r" \((?:[\w*]+, ?)+[^()]*\)")  # " (N, F)", which says nothing to a reader of the page


@cache
def drawn_by() -> dict[str, str]:
    """Of each function of ``minivar.book.plots`` that returns a figure, what it draws: its docstring's first line."""
    found = {}
    for path in sorted(PLOTS.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            figure = isinstance(node, ast.FunctionDef) and getattr(node.returns, "id", "") == "Figure"
            if figure and (text := ast.get_docstring(node)):
                line = SHAPE.sub("", SHAPE.sub("", " ".join(text.split("\n\n")[0].split()))).replace("``", "")
                found[node.name] = line.split("; ")[0].rstrip(".")
    return found | PLAINLY


def sentence(node: ast.AST) -> str:
    """The text of a string in the code, a computed part of it as three dots; "" if it is no sentence."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        text = "".join(map(str, parts))
    else:
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
    text = " ".join(text.split())
    return text if len(text) >= 12 and " " in text else ""


def name_of(call: ast.Call) -> str:
    """``plots.image_grid(...)`` -> "image_grid"."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def of_code(source: str, heading: str = "") -> str:
    """The alternative text of the figures that a cell draws; ``heading`` is the section it stands in.

    Of the calls that draw (functions of ``plots``, and ``set_title`` and the like), each gives its title: the
    argument named so, or its last sentence. A figure without a title is told by its function and its section.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    titles, kinds = [], []
    for call in calls:
        name = name_of(call)
        of_plots = getattr(getattr(call.func, "value", None), "id", "") == "plots"
        if not of_plots and name not in TITLES:
            continue
        named = [sentence(keyword.value) for keyword in call.keywords if keyword.arg in TITLES]
        given = [sentence(node) for node in call.args]
        titles += list(filter(None, named)) or list(filter(None, given))[-1:]
        if of_plots and name in drawn_by():
            kinds.append(drawn_by()[name])
    sentences = dict.fromkeys(filter(None, ["; ".join(titles) or heading, *kinds]))
    return "Figure: " + " ".join(text if text[-1] in ".?!" else f"{text}." for text in sentences)


def heading_in(markdown: str, before: str) -> str:
    """The last heading of a text cell, or the one before it."""
    lines = [line.lstrip("#").strip() for line in markdown.splitlines() if line.startswith("#")]
    return lines[-1] if lines else before


def describe(notebook: dict) -> int:
    """Give every cell of a notebook (as JSON) that shows pictures their text, in place; how many were given one."""
    heading, given = "", 0
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = heading_in(source, heading)
        elif any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
            image.setdefault("alt", of_code(source, heading))
            given += 1
    return given
