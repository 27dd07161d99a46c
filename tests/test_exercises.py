"""The book's notebooks: complete, with outputs, and with exercises whose stubs fail and whose solutions pass."""

import ast
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
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


def guided_in_probabilities(p_class, p_null, k, num_scales, cfg):
    t = cfg * k / max(num_scales - 1, 1)
    p = (p_class + t * (p_class - p_null)).clamp_min(0)
    return p / p.sum(-1, keepdim=True)


def guided_without_sum(p_class, p_null, k, num_scales, cfg):
    t = cfg * k / max(num_scales - 1, 1)
    return p_class * (p_class / p_null) ** t


def guided_by_s(p_class, p_null, k, num_scales, cfg):
    s = cfg * k / max(num_scales - 1, 1)
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


def distance_of_means(a, b):
    return float((a.mean(0) - b.mean(0)).square().sum())


def frechet_by_entries(a, b):
    cov_a, cov_b = (torch.cov(x.T).reshape(x.shape[1], x.shape[1]) for x in (a, b))
    return distance_of_means(a, b) + float((cov_a + cov_b - 2 * (cov_a @ cov_b).clamp_min(0).sqrt()).trace())


def frechet_of_biased_covariances(a, b):
    shape = (a.shape[1], a.shape[1])
    cov_a, cov_b = ((x - x.mean(0)).T @ (x - x.mean(0)) / len(x) for x in (a, b))
    roots = torch.linalg.eigvals((cov_a @ cov_b).reshape(shape)).real.clamp_min(0).sqrt().sum()
    return distance_of_means(a, b) + float(cov_a.trace() + cov_b.trace() - 2 * roots)


def covered_by_own_neighbours(points, manifold, k):
    radius = torch.cdist(points, points).kthvalue(min(k + 1, len(points)), dim=1).values
    return (torch.cdist(points, manifold) <= radius[:, None]).any(1).float().mean().item()


def covered_with_k(points, manifold, k):
    radius = torch.cdist(manifold, manifold).kthvalue(k, dim=1).values
    return (torch.cdist(points, manifold) <= radius).any(1).float().mean().item()


def covering(points, manifold, k):
    radius = torch.cdist(manifold, manifold).kthvalue(k + 1, dim=1).values
    return (torch.cdist(points, manifold) <= radius).any(0).float().mean().item()


def score_against_equal_shares(probs):
    return (
        (torch.xlogy(probs, probs) - torch.xlogy(probs, torch.tensor(1 / probs.shape[1]))).sum(1).mean().exp().item()
    )


def score_without_xlogy(probs):
    return (probs * (probs / probs.mean(0)).log()).sum(1).mean().exp().item()


def mean_of_batches(batches):
    parts = [(x.mean(0), torch.cov(x.T) if len(x) > 1 else torch.zeros(3, 3)) for x in batches]
    return tuple(torch.stack(each).mean(0) for each in zip(*parts))


def best_of(bought):
    """The curve whose lowest ``bought(compute, loss, budget)`` is lowest."""

    def answer(curves, budget):
        found = [bought(x, y, budget) for x, y in curves]
        return int(np.argmin([part.min() if len(part) else np.inf for part in found]))

    return answer


def line_through_the_numbers(x, y):
    slope, intercept = np.polyfit(x, y, 1)
    return slope, math.exp(intercept / slope)


def law_without_division(x, y):
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return slope, math.exp(intercept)


def cosine_counts(tokens, steps, begin=1):
    return [math.floor(tokens * math.cos(math.pi / 2 * i / steps) + 1e-9) for i in range(begin, begin + steps)]


def keep(tokens, drawn, logits, count, mask, frozen=True, redraw=False, low=True):
    hidden = tokens == mask
    found = drawn if redraw else torch.where(hidden, drawn, tokens)
    surety = logits.log_softmax(-1).gather(-1, found[..., None])[..., 0] * (1 if low else -1)
    surety = surety.masked_fill(~hidden, math.inf) if frozen else surety
    return found.scatter(-1, surety.argsort(-1)[:, :count], mask)


WRONG = (
    (
        checks.check_hidden_counts,
        lambda n, s: [math.floor(n * (1 - i / s)) for i in range(1, s + 1)],
        "straight line",
    ),
    (checks.check_hidden_counts, lambda n, s: [n - i for i in cosine_counts(n, s)], "stay hidden"),
    (checks.check_hidden_counts, lambda n, s: cosine_counts(n, s, 0), "after the first step"),
    (checks.check_keep_surest, functools.partial(keep, redraw=True), "drawn anew"),
    (checks.check_keep_surest, functools.partial(keep, frozen=False), "infinitely sure"),
    (checks.check_keep_surest, functools.partial(keep, low=False), "the least sure"),
    (checks.check_mix, lambda x, e, kept: kept * x + (1 - kept) * e, "take their roots"),
    (checks.check_mix, lambda x, e, kept: kept**0.5 * e + (1 - kept) ** 0.5 * x, "have changed places"),
    (checks.check_mix, lambda x, e, kept: kept**0.5 * x + (1 - kept**0.5) * e, "variances that add up"),
    (checks.check_ddim_step, lambda x, e, a, b: (x - (1 - a) ** 0.5 * e) / a**0.5, "mixed with the noise again"),
    (checks.check_ddim_step, lambda x, e, a, b: b**0.5 * (x - (1 - a) ** 0.5 * e) + (1 - b) ** 0.5 * e, "is faint"),
    (checks.check_ddim_step, lambda x, e, a, b: x, "shares of the step before"),
    (checks.check_block_parameters, lambda d, w: 12 * d * w * w, "AdaLN is a matrix too"),
    (checks.check_block_parameters, lambda d, w: 13 * d * w * w, "six vectors, not one"),
    (checks.check_block_parameters, lambda d, w: 14 * d * w * w, "two matrices, to 4 D and back"),
    (checks.check_block_parameters, lambda d, w: 18 * w * w, "one block; there are d"),
    (checks.check_power_law, line_through_the_numbers, "logarithms of both first"),
    (checks.check_power_law, law_without_division, "divide it by alpha"),
    (checks.check_power_law, lambda x, y: np.polyfit(np.log(x), y, 1), "Only one of the two axes"),
    (checks.check_power_law, lambda x, y: (-2, 1), "not what the text asks for"),
    (checks.check_entropy, lambda p: float(-(p[p > 0] * np.log2(p[p > 0])).sum()), "these are bits"),
    (checks.check_entropy, lambda p: -float(np.log(p[p > 0]).mean()), "weighed by how often"),
    (checks.check_entropy, lambda p: float((p[p > 0] * np.log(p[p > 0])).sum()), "minus the logarithm"),
    (checks.check_entropy, lambda p: float(p.max()), "not what the text asks for"),
    (checks.check_best_rung, lambda curves, budget: int(np.argmin([y[-1] for _, y in curves])), "end of training"),
    (checks.check_best_rung, best_of(lambda x, y, budget: y[x <= budget][-1:]), "the last entry within"),
    (checks.check_best_rung, best_of(lambda x, y, budget: y[x < budget]), "may be spent"),
    (checks.check_frechet, distance_of_means, "means alone"),
    (checks.check_frechet, frechet_by_entries, "meant of the matrix"),
    (checks.check_frechet, frechet_of_biased_covariances, "divide by N, not by N - 1"),
    (checks.check_frechet, lambda a, b: 1 / 0, "ZeroDivisionError"),
    (checks.check_covered, covered_with_k, "the point itself"),
    (checks.check_covered, covered_by_own_neighbours, "belongs to the manifold's point"),
    (checks.check_covered, covering, "share of the balls"),
    (
        checks.check_inception,
        lambda p: (p * (p / p.mean(0)).log()).sum(1).mean().exp().item(),
        "0 times the logarithm",
    ),
    (checks.check_inception, score_against_equal_shares, "mean of all opinions"),
    (checks.check_inception, lambda p: 0.0, "not what the text asks for"),
    (checks.check_streaming, lambda b: (torch.cat(b).mean(0), torch.cov(torch.cat(b).T, correction=0)), "N, not by"),
    (checks.check_streaming, lambda b: (b[-1].mean(0), torch.cov(b[-1].T)), "the last batch alone"),
    (checks.check_streaming, mean_of_batches, "mean of means"),
    (checks.check_append, append_without_moving_on, "written over the one before"),
    (checks.check_append, append_and_return_new, "come back alone"),
    (checks.check_append, append_and_return_all, "The whole buffer"),
    (checks.check_append, append_by_joining, "new tensors"),
    (checks.check_append, lambda cache, k, v: (v, k), "have changed places"),
    (checks.check_guided_probabilities, guided_everywhere, "first scale is guided already"),
    (checks.check_guided_probabilities, guided_in_probabilities, "extrapolates their logarithms"),
    (checks.check_guided_probabilities, guided_without_sum, "do not sum to one"),
    (checks.check_guided_probabilities, guided_by_s, "LlamaGen"),
    (checks.check_guided_probabilities, lambda c, u, k, K, cfg: c[:1], "The shape (3, 6) is asked for"),
    (checks.check_filter, filter_p_first, "which comes first"),
    (checks.check_filter, filter_and_drop_the_crossing_code, "has to stay"),
    (checks.check_filter, filter_without_order, "from unsorted ones"),
    (checks.check_filter, lambda x, k, p: x.sigmoid(), "10 of 10 numbers"),
    (checks.check_draw, drawing(ramped=False), "as strong at the first scale"),
    (checks.check_draw, drawing(cached=False), "does not see the coarser ones"),
    (checks.check_draw, drawing(summed=False), "f_hat is the sum of all"),
    (checks.check_draw, drawing(swapped=True), "have changed places"),
    (checks.check_draw, drawing(doubled=True), "though nothing asks for it"),
    (checks.check_draw, lambda *arguments: None, "A tensor is asked for"),
    (checks.check_draw, lambda *arguments: 1 / 0, "ZeroDivisionError"),
)


@pytest.mark.parametrize(
    "check, answer, sentence", WRONG, ids=[f"{c.__name__}-{i}" for i, (c, _, _) in enumerate(WRONG)]
)
def test_a_check_names_the_mistake(check, answer, sentence, capsys):
    assert check(answer) is False
    said = capsys.readouterr().out
    assert "not yet" in said and sentence in said
    assert "tensor(" not in said  # nor the answer


def test_a_loop_of_another_make_passes(capsys):
    assert checks.check_draw(drawing()) is True, capsys.readouterr().out
