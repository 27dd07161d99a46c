"""Samples of the runs, and what the judges say of them."""

import functools
from typing import TYPE_CHECKING

import torch

from minivar import checkpoints, data, evaluation, sampling
from minivar.tokenizer import Pixels

if TYPE_CHECKING:
    from experiments.rivals.runs import Run

Settings = dict[str, object]  # of the loop that draws
GUIDANCE = (1.0, 1.25, 1.5, 2.0, 3.0)  # LlamaGen's convention, 1: none; VAR's cfg is one less
NUCLEUS = (1.0, 0.95, 0.9, 0.8)
TOP_K = (16, 32, 64, 128, 256)  # of 512 codes; the paper's 900 of 4,096 would be 112
STEPS = {"maskgit": 12, "dit": 50, "dit-pixels": 50}


def settings(side: str, guidance: float, nucleus: float = 1.0) -> Settings:
    """How a side is drawn from."""
    if side.startswith("var"):
        return {"cfg": guidance - 1, "top_p": nucleus if nucleus < 1 else 0.0}
    if side == "maskgit":
        return {"cfg": guidance, "steps": STEPS[side]}
    if side.startswith("dit"):
        return {"cfg": guidance, "steps": STEPS[side], "method": "ddim"}
    return {"cfg": guidance, "top_p": nucleus}


def ways(side: str) -> list[Settings]:
    """All settings that are tried."""
    tried = [settings(side, guidance) for guidance in GUIDANCE]
    if side.startswith("var"):
        return tried + [{**each, "ramp": False} for each in tried[1:]]
    if side == "maskgit":
        return [{**each, "choice_temperature": noise} for each in tried for noise in (0.5, 1.5, 4.5)]
    return tried


@functools.cache
def load(run: "Run"):
    """Its tokenizer and model."""
    tokenizer = run.tokenizer.load() if run.tokenizer else None
    path = next(path for path in run.folder.glob("*.safetensors") if path.name in checkpoints.FILES)
    best = path.with_suffix(".best.safetensors")
    model, _ = checkpoints.load(best if best.is_file() else path)
    return tokenizer or Pixels(), model


def judged(
    run: "Run", count: int, seed: int, split: str, how: dict[str, object], draws: int = 0
) -> dict[str, object]:
    """Scores of samples of all digits in turn, or of the classes of random emoji of the split."""
    (tokenizer, model), dataset = load(run), run.preset.dataset
    train, heldout = data.load(dataset, evaluation.OTHERS[split]), data.load(dataset, split)
    labels = torch.arange(count) % 10
    if run.world == "emoji":
        there = data.by_style(heldout).labels
        labels = there[torch.randint(len(there), (count,), generator=torch.Generator().manual_seed(seed))]
    images = evaluation.draw(model, tokenizer, labels, seed, 100, **how)
    known = labels if run.world == "digits" else None
    return evaluation.score_samples(images, known, train, heldout, run.world, draws)


def mean_ratio(scores: dict[str, object]) -> float:
    """Of both judges."""
    ratios = [each["frechet_ratio"] for each in scores["judges"].values()]
    return sum(ratios) / len(ratios)


def scores_of(run: "Run") -> dict[str, object]:
    """Choose on validation, report on held-out digits."""
    tried = [{"settings": how, **judged(run, 800, 1, "validation", how)} for how in ways(run.side)]
    best = min(tried, key=mean_ratio)["settings"]
    scores = {"settings": best, "tried": [{"settings": t["settings"], "ratio": mean_ratio(t)} for t in tried]}
    scores |= judged(run, 2000, 0, "heldout", best, draws=50)
    scores["plain"] = judged(run, 2000, 0, "heldout", settings(run.side, 1.0))
    if run.world == "digits" and run.side == "var":
        scores |= filtered(run)
    if run.side.startswith("var"):  # the other way of guiding, at its best
        ramps = best.get("ramp", True)
        other = min((t for t in tried if t["settings"].get("ramp", True) != ramps), key=mean_ratio)["settings"]
        scores["other_guidance"] = {"settings": other, **judged(run, 2000, 0, "heldout", other)}
    if run.variant == "in-parts":
        scores["in_parts"] = in_parts(run, min((t for t in tried if t["settings"].get("ramp", True)), key=mean_ratio))
    return scores


def in_parts(run: "Run", best: dict[str, object]) -> dict[int, dict]:
    """Held-out scores with the last scale drawn in one, two and four parts."""
    (tokenizer, model), labels = map(sampling.packed, load(run)), torch.arange(2000) % 10
    train, heldout = data.load("digits", evaluation.OTHERS["heldout"]), data.load("digits", "heldout")
    found = {}
    for parts in (1, 2, 4):
        generator, economy = torch.Generator().manual_seed(0), sampling.Economy(sub_steps=parts)
        draw = functools.partial(sampling.sample_economically, model, tokenizer, economy=economy, generator=generator)
        images = torch.cat([draw(part, **best["settings"]).images for part in labels.split(100)])
        found[parts] = evaluation.score_samples(images, labels, train, heldout, "digits")
    return found


def filtered(run: "Run") -> dict[str, dict]:
    """The paper's ladder: top-k without guidance, then guidance with it; each chosen on validation."""

    def best(tried: list[Settings]) -> Settings:
        return min(tried, key=lambda how: mean_ratio(judged(run, 800, 1, "validation", how)))

    top_k = best([{**settings(run.side, 1.0), "top_k": k} for k in TOP_K])
    guided = best([{**top_k, "cfg": guidance - 1} for guidance in GUIDANCE])
    found = {"top_k": top_k, "top_k_guided": guided}
    return {name: {"settings": how, **judged(run, 2000, 0, "heldout", how)} for name, how in found.items()}
