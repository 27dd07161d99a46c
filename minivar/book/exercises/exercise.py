"""What an exercise is: a solution, of which the stub is made, and mistakes, of which the check's sentences are made.

``experiments/build_notebook.py`` writes stub, hint and solution into the page; a test holds the page to what is here.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType

from minivar.book.exercises.verdict import diagnose

Ask = Callable[[Callable], object]  # a function -> its answer to one case


@dataclass(frozen=True)
class Exercise:
    """One exercise. What is right is what ``solution`` answers to the ``cases``, in their order."""

    solution: Callable  # written as a reader would write it: its source is shown
    title: str
    stars: int  # difficulty, 1 to 3
    minutes: int
    way_in: str  # what the stub's NotImplementedError says
    cases: tuple[tuple[str, Ask], ...]
    mistakes: tuple[tuple[str, Callable], ...]  # (sentence, a function that makes it), at least three
    hint: str = ""
    remark: str = ""  # below the solution

    @property
    def name(self) -> str:
        """That of the function."""
        return self.solution.__name__

    def check(self, fn: Callable) -> bool:
        """Whether ``fn`` passes; says so, or which case fails and why, if that is a known mistake."""
        return diagnose(self.name, self.cases, fn, self.solution, self.mistakes)

    @property
    def heading(self) -> str:
        """Without its number."""
        return f"{self.title} ({'★' * self.stars}, {self.minutes} minutes)"

    @property
    def solution_source(self) -> str:
        """The solution, as it stands in its module."""
        return textwrap.dedent(inspect.getsource(self.solution)).strip()

    @property
    def stub(self) -> str:
        """The solution's signature and docstring, its body replaced by an error, and the call of ``use``."""
        function = ast.parse(self.solution_source).body[0]
        lines = self.solution_source.splitlines()
        head = lines[: function.body[0].lineno - 1]
        if ast.get_docstring(function) is not None:
            head = lines[: function.body[0].end_lineno]
        body = f"    raise NotImplementedError({json.dumps(self.way_in, ensure_ascii=False)})"
        return "\n".join([*head, body, "", "", f"{self.name} = exercises.use({self.name})"])

    def cells(self) -> list[tuple[str, str, list[str]]]:
        """What the page shows below the task: (kind of the cell, text, tags) of stub, hint and solution."""
        solution = f"```python\n{self.solution_source}\n```" + (f"\n\n{self.remark}" if self.remark else "")
        hint = [("markdown", folded("Hint", self.hint), [])] if self.hint else []
        solved = ("markdown", folded("Solution", solution), ["solution"])
        return [("code", self.stub, ["exercise"]), *hint, solved]


def folded(summary: str, text: str) -> str:
    """Markdown that is opened by a click."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"


def register(modules: Iterable[ModuleType]) -> dict[str, Exercise]:
    """The exercises of modules by name; ``ValueError`` where a name is there twice."""
    found: dict[str, Exercise] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Exercise):
                if value.name in found:
                    raise ValueError(f"Exercises need names of their own: got {value.name!r} twice.")
                found[value.name] = value
    return found
