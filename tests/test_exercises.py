"""The book's notebooks: complete, with outputs, and with exercises whose stubs fail and whose solutions pass."""

import ast
import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str | None = None, tag: str | None = None) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        {**cell, "source": "".join(cell["source"])}
        for cell in cells
        if kind in (None, cell["cell_type"]) and (tag is None or tag in cell["metadata"].get("tags", []))
    ]


def test_the_chapters_of_the_spine_are_there():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert {"00", "04", "05", "06"} <= set(numbers)
    assert len(numbers) == len(set(numbers))


@by_name
def test_notebook_runs_with_parameters_on_the_plain_kernel(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = cells_of(path, "code")
    assert [i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", [])] == [0]
    assert path.stat().st_size < 1_000_000


@by_name
def test_notebook_is_committed_with_its_outputs_and_no_error(path):
    code = [cell for cell in cells_of(path, "code") if cell["source"].strip()]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))  # run once, top to bottom
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]


# Exercises --------------------------------------------------------------------------------------------------------


def exercises_in(path: Path) -> list[tuple[str, str]]:
    """(stub, solution) of each exercise: a code cell tagged "exercise", then a markdown cell tagged "solution"."""
    found = []
    cells = cells_of(path)
    for i, cell in enumerate(cells):
        if "exercise" in cell["metadata"].get("tags", []):
            assert cell["cell_type"] == "code"
            after = (c for c in cells[i + 1 :] if {"solution", "exercise"} & set(c["metadata"].get("tags", [])))
            solution = next(after, None)
            assert solution and "solution" in solution["metadata"]["tags"], f"no solution to {cell['source']}"
            blocks = re.findall(r"```python\n(.*?)```", solution["source"], flags=re.DOTALL)
            assert len(blocks) == 1, f"expected one python block in the solution, found {len(blocks)}"
            found.append((cell["source"], blocks[0]))
    return found


def imports_and_functions_of(path: Path) -> str:
    """What the notebook's ordinary cells import and define: an exercise may use it."""
    kept = []
    for cell in cells_of(path, "code"):
        if "exercise" not in cell["metadata"].get("tags", []):
            source = re.sub(r"^[%!].*$", "", cell["source"], flags=re.MULTILINE)
            definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
            kept += [ast.unparse(node) for node in ast.parse(source).body if isinstance(node, definitions)]
    return "\n".join(kept)


@by_name
def test_stubs_fail_and_solutions_pass(path, capsys):
    exercises = exercises_in(path)
    assert exercises, "a chapter has exercises"
    common = imports_and_functions_of(path)
    for stub, solution in exercises:
        *body, last = ast.parse(stub).body
        check = ast.unparse(last)
        assert re.fullmatch(r"exercises\.check_\w+\(\w+\)", check)
        namespace: dict = {}
        exec(f"import torch\nfrom minivar.book import exercises\n{common}", namespace)
        exec("\n".join(ast.unparse(node) for node in body), namespace)
        assert eval(check, namespace) is False, f"the stub passes {check}"
        assert "not yet" in capsys.readouterr().out
        exec(solution, namespace)
        assert eval(check, namespace) is True, f"{check}: {capsys.readouterr().out}"
