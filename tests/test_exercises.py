"""The book's notebooks: complete, with outputs, and with exercises whose stubs fail and whose solutions pass."""

import ast
import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch

from minivar import sampling
from minivar.book import exercises as checks

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
    numbers = [path.stem.split("_")[0] for path in NOTEBOOKS]  # 04, and 04a where a page was split
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
        assert isinstance(last, ast.Assign), ast.unparse(last)
        name = last.targets[0].id
        assert ast.unparse(last) == f"{name} = exercises.use({name})"
        check = f"exercises.REGISTRY[{name!r}].check({name})"
        namespace: dict = {}
        exec(f"import torch\nfrom minivar.book import exercises\n{common}", namespace)
        exec("\n".join(ast.unparse(node) for node in body), namespace)
        assert eval(check, namespace) is False, f"the stub passes {check}"
        assert "not yet" in capsys.readouterr().out
        exec(solution, namespace)
        assert eval(check, namespace) is True, f"{check}: {capsys.readouterr().out}"


@by_name
def test_the_page_shows_the_exercises_as_the_package_has_them(path):
    cells, number = cells_of(path), 0
    for i, cell in enumerate(cells):
        called = re.search(r"^(\w+) = exercises\.use\(\1\)$", cell["source"], flags=re.MULTILINE)
        if not called:
            continue
        exercise, number = checks.REGISTRY[called[1]], number + 1
        assert f"### Exercise {number} · {exercise.heading}\n" in cells[i - 1]["source"]
        for (kind, text, tags), shown in zip(exercise.cells(), cells[i:]):
            assert (shown["cell_type"], shown["metadata"].get("tags", [])) == (kind, tags)
            assert shown["source"] == text
    assert number == sum("exercise" in cell["metadata"].get("tags", []) for cell in cells)


each = pytest.mark.parametrize("exercise", checks.REGISTRY.values(), ids=checks.REGISTRY)


@each
def test_the_solution_passes_and_the_stub_does_not(exercise, capsys):
    assert exercise.check(exercise.solution)
    namespace = {"exercises": checks}
    exec(exercise.stub, namespace)
    said = capsys.readouterr().out
    assert "all" in said and "not yet, it raised NotImplementedError" in said
    assert namespace[exercise.name] is exercise.solution  # the page goes on
    assert exercise.way_in in said or len(exercise.way_in) > 100


@each
def test_three_mistakes_fail_each_with_its_sentence(exercise, capsys):
    sentences = {sentence for sentence, _ in exercise.mistakes}
    assert len(sentences) >= 3
    for sentence, wrong in exercise.mistakes:
        assert exercise.check(wrong) is False, sentence
        said = capsys.readouterr().out
        assert "not yet" in said and sentence in said, said
        assert "tensor(" not in said  # nor the answer


@each
def test_what_makes_mistakes_is_right_without_them(exercise):
    """Most are made by a second version of the solution, with something switched off: the two are held together."""
    bases = {wrong.func for _, wrong in exercise.mistakes if isinstance(wrong, functools.partial)}
    for base in bases - {wrong for _, wrong in exercise.mistakes}:  # some are mistakes whatever is switched
        assert exercise.check(base), base


def test_an_answer_of_another_kind_is_told_so(capsys):
    assert checks.REGISTRY["keep_surest"].check(lambda *given: None) is False
    assert "A tensor is asked for" in capsys.readouterr().out
    assert checks.REGISTRY["entropy"].check(lambda p: 0.1) is False
    assert "not what the text asks for" in capsys.readouterr().out


def test_a_right_answer_is_used_and_a_foreign_one_refused(capsys):
    def entropy(p):
        return -sum(float(x) * math.log(x) for x in p if x > 0)

    assert checks.use(entropy) is entropy
    assert "all 4 cases pass" in capsys.readouterr().out
    with pytest.raises(ValueError, match="No exercise asks for a function 'nothing': expected one of "):
        checks.use(nothing)


def nothing():
    pass


# Wrong answers: what a check says of them --------------------------------------------------------------------------


def append_without_moving_on(cache, k, v):
    cache.k[:, :, : k.shape[2]], cache.v[:, :, : v.shape[2]] = k, v
    return cache.k[:, :, : k.shape[2]], cache.v[:, :, : v.shape[2]]


def append_and_return_new(cache, k, v):
    end = cache.filled + k.shape[2]
    cache.k[:, :, cache.filled : end], cache.v[:, :, cache.filled : end], cache.filled = k, v, end
    return k, v


def append_and_return_all(cache, k, v):
    append_and_return_new(cache, k, v)
    return cache.k, cache.v


def append_by_joining(cache, k, v):
    cache.k = torch.cat([cache.k[:, :, : cache.filled], k], dim=2)
    cache.v = torch.cat([cache.v[:, :, : cache.filled], v], dim=2)
    cache.filled = cache.k.shape[2]
    return cache.k, cache.v


def guided_everywhere(p_class, p_null, k, num_scales, cfg):
    return ((1 + cfg) * p_class.log() - cfg * p_null.log()).softmax(-1)


def guided_from_zero(p_class, p_null, k, num_scales, cfg):
    return guided_everywhere(p_class, p_null, k, num_scales, cfg * k / max(num_scales - 1, 1))


def guided_in_probabilities(p_class, p_null, k, num_scales, cfg):
    t = cfg * (k - 1) / max(num_scales - 1, 1)
    p = (p_class + t * (p_class - p_null)).clamp_min(0)
    return p / p.sum(-1, keepdim=True)


def guided_without_sum(p_class, p_null, k, num_scales, cfg):
    t = cfg * (k - 1) / max(num_scales - 1, 1)
    return p_class * (p_class / p_null) ** t


def guided_by_s(p_class, p_null, k, num_scales, cfg):
    s = cfg * (k - 1) / max(num_scales - 1, 1)
    return (p_null.log() + s * (p_class.log() - p_null.log())).softmax(-1)


def filter_p_first(logits, top_k, top_p):
    return sampling.filter_logits(sampling.filter_logits(logits, 0, top_p), top_k)


def filter_and_drop_the_crossing_code(logits, top_k, top_p):
    logits = sampling.filter_logits(logits, top_k)
    if top_p == 0:
        return logits
    descending, order = logits.sort(dim=-1, descending=True)
    drop = descending.softmax(-1).cumsum(-1) > top_p
    drop[..., 0] = False
    return logits.masked_fill(drop.scatter(-1, order, drop), -torch.inf)


def filter_without_order(logits, top_k, top_p):
    logits = sampling.filter_logits(logits, top_k)
    if top_p == 0:
        return logits
    drop = logits.sort(dim=-1).values.softmax(-1).cumsum(-1) <= 1 - top_p
    drop[..., -1] = False
    return logits.masked_fill(drop, -torch.inf)


def drawing(ramped=True, cached=True, summed=True, swapped=False, doubled=False):
    """A loop over scales as a reader might write it, right but for what is asked."""

    def draw(model, quantizer, labels, cfg, top_k, top_p, generator):
        K, guided = model.schedule.num_scales, cfg > 0 or doubled
        pair = [labels, torch.full_like(labels, model.config.num_classes)]
        cond, blocks = model.condition(torch.cat(pair[::-1] if swapped else pair) if guided else labels)
        caches = [sampling.KVCache(model.schedule.num_tokens) if cached else None for _ in model.blocks]
        x, f_hat, tokens = model.embed(0, cond), 0, []
        for k in range(K):
            for block, cache in zip(model.blocks, caches):
                x = block(x, blocks, None, cache)
            t = cfg * k / max(K - 1, 1) if ramped else cfg
            rows = len(cond) if t > 0 or doubled else len(labels)
            logits = model.logits(x[:rows], cond[:rows])
            if rows > len(labels):
                with_class, without = logits.chunk(2)
                logits = with_class + t * (with_class - without)
            tokens.append(sampling.draw_tokens(sampling.filter_logits(logits, top_k, top_p), generator))
            part = quantizer.contribution(quantizer.lookup(tokens[-1]), k)
            f_hat = f_hat + part if summed else part
            if k + 1 < K:
                inputs = quantizer.at_scale(f_hat, k + 1)
                x = model.embed(k + 1, cond, torch.cat([inputs, inputs]) if guided else inputs)
        return torch.cat(tokens, dim=1)

    return draw


WRONG = (
    ("append_to_cache", append_without_moving_on, "written over the one before"),
    ("append_to_cache", append_and_return_new, "come back alone"),
    ("append_to_cache", append_and_return_all, "The whole buffer"),
    ("append_to_cache", append_by_joining, "new tensors"),
    ("append_to_cache", lambda cache, k, v: (v, k), "have changed places"),
    ("guided_probabilities", guided_everywhere, "at the first scale already"),
    ("guided_probabilities", guided_from_zero, "counted from 1"),
    ("guided_probabilities", guided_in_probabilities, "extrapolates their logarithms"),
    ("guided_probabilities", guided_without_sum, "do not sum to one"),
    ("guided_probabilities", guided_by_s, "LlamaGen"),
    ("guided_probabilities", lambda c, u, k, K, cfg: c[:1], "The shape (3, 6) is asked for"),
    ("keep_likely", filter_p_first, "which comes first"),
    ("keep_likely", filter_and_drop_the_crossing_code, "has to stay"),
    ("keep_likely", filter_without_order, "from unsorted ones"),
    ("keep_likely", lambda x, k, p: x.sigmoid(), "10 of 10 numbers"),
    ("draw_scales", drawing(ramped=False), "as strong at the first scale"),
    ("draw_scales", drawing(cached=False), "does not see the coarser ones"),
    ("draw_scales", drawing(summed=False), "f_hat is the sum of all"),
    ("draw_scales", drawing(swapped=True), "have changed places"),
    ("draw_scales", drawing(doubled=True), "though nothing asks for it"),
    ("draw_scales", lambda *arguments: None, "A tensor is asked for"),
    ("draw_scales", lambda *arguments: 1 / 0, "ZeroDivisionError"),
)


@pytest.mark.parametrize("name, answer, sentence", WRONG, ids=[f"{name}-{i}" for i, (name, _, _) in enumerate(WRONG)])
def test_a_check_names_the_mistake(name, answer, sentence, capsys):
    assert checks.REGISTRY[name].check(answer) is False
    said = capsys.readouterr().out
    assert "not yet" in said and sentence in said
    assert "tensor(" not in said  # nor the answer


def test_a_loop_of_another_make_passes(capsys):
    assert checks.REGISTRY["draw_scales"].check(drawing()) is True, capsys.readouterr().out
