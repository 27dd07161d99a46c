"""Turn a percent script into a committed chapter: convert, execute, and keep the file small and free of noise.

python experiments/build_notebook.py draft.py 01_images_as_tokens      # writes notebooks/01_images_as_tokens.ipynb
jupytext --to py:percent -o draft.py notebooks/01_images_as_tokens.ipynb    # the way back

A line "exercise: NAME" in a text becomes the heading of that exercise; its stub, hint and solution follow the cell
(``minivar.book.exercises``). Figures are reduced to 256 colours, widget views to their figure or text, consecutive
prints to one output.
"""

import argparse
import base64
import io
import re
import subprocess
from pathlib import Path

import nbformat
from PIL import Image

from minivar.book.exercises import REGISTRY

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def smaller(png: str) -> str:
    """A base64 PNG with a palette of 256 colours; an animation as it is, since it has one already."""
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if getattr(image, "is_animated", False):
        return png
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def expand(notebook) -> None:
    """Put the exercises in their places."""
    cells, number = [], 0
    for cell in notebook.cells:
        cells.append(cell)
        asked = (
            re.findall(r"^exercise: (\w+)$", cell.source, flags=re.MULTILINE) if cell.cell_type == "markdown" else []
        )
        for name in asked:
            number += 1
            exercise = REGISTRY[name]
            heading = f"### Exercise {number} · {exercise.heading}"
            cell.source = cell.source.replace(f"exercise: {name}", heading)
            for kind, text, tags in exercise.cells():
                new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
                cells.append(new(text, metadata={"tags": tags} if tags else {}))
    notebook.cells = cells


def clean(notebook) -> None:
    """Strip in place what changes from run to run without meaning."""
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = {"tags": cell.metadata.tags} if "tags" in cell.metadata else {}
        if cell.cell_type != "code":
            continue
        merged = []
        for output in cell.outputs:
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = smaller(output.data["image/png"])
            same = merged and output.output_type == "stream" == merged[-1].output_type
            if same and output.name == merged[-1].name:
                merged[-1].text += output.text
            else:
                merged.append(output)
        cell.outputs = merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("script", type=Path)
    parser.add_argument("title")
    args = parser.parse_args()
    path = NOTEBOOKS / f"{args.title}.ipynb"
    subprocess.run(["jupytext", "--quiet", "--to", "ipynb", args.script, "-o", path], check=True)
    notebook = nbformat.read(path, as_version=4)
    expand(notebook)
    nbformat.write(notebook, path)
    subprocess.run(["ruff", "format", "--quiet", path], check=True)
    execute = ["jupyter", "nbconvert", "--to", "notebook", "--execute", "--inplace", "--log-level=ERROR"]
    subprocess.run([*execute, "--ExecutePreprocessor.record_timing=False", path], check=True)
    notebook = nbformat.read(path, as_version=4)
    clean(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
