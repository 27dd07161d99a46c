"""Which runs there are to be, in which order, and who works on which."""

import os
from pathlib import Path

from experiments.rivals.runs import RATE_SEED, RATES, SEEDS, SHALLOW, SIDES, TOKENIZERS, Run, TokenizerRun


def rates_of(side: str, done: dict[str, dict]) -> dict[float, float]:
    """Validation loss by learning rate, of the runs that search it."""
    found = [result for result in done.values() if (result["side"], result["part"]) == (side, "rates")]
    return {result["rate"]: result["validation_loss"] for result in found}


def best_rate(side: str, done: dict[str, dict]) -> float | None:
    """The rate with the lowest validation loss, once it does not lie at the edge of what was tried; else None."""
    losses = rates_of(side, done)
    if not set(RATES) <= set(losses):
        return None
    best = min(losses, key=losses.get)
    return best if min(losses) < best < max(losses) else None


def plan(done: dict[str, dict]) -> list[Run | TokenizerRun]:
    """The runs that can be said by now: seeds follow when the rate of their side is known."""
    runs: list[Run | TokenizerRun] = [TokenizerRun(side, 0) for side in TOKENIZERS.values()]
    runs += [Run(side, RATE_SEED, rate, "rates") for side in SIDES for rate in RATES]
    for side in SIDES:
        losses = rates_of(side, done)
        if set(RATES) <= set(losses) and best_rate(side, done) is None:
            edge = min(losses, key=losses.get)
            runs.append(Run(side, RATE_SEED, edge * 2 if edge == max(losses) else edge / 2, "rates"))
    runs += [TokenizerRun(side, seed) for seed in (1, 2) for side in TOKENIZERS.values()]
    best = {side: rate for side in SIDES if (rate := best_rate(side, done))}
    for seed in range(max(SEEDS.values())):
        runs += [Run(side, seed, rate) for side, rate in best.items() if seed < SEEDS[side]]
    for seed in range(3):
        runs += [Run(side, seed, best[side], "depth") for side in SHALLOW if side in best]
    return [run for run in runs if run.name not in done]


def ready(run: Run | TokenizerRun, done: dict[str, dict]) -> bool:
    """Whether its tokenizer is trained."""
    return isinstance(run, TokenizerRun) or run.tokenizer is None or run.tokenizer.name in done


def claim(folder: Path) -> bool:
    """Whether no other process works on a run; a claim whose process is gone is void."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder / "claim", "x") as file:
            file.write(str(os.getpid()))
        return True
    except FileExistsError:
        owner = (folder / "claim").read_text()
        if owner and Path(f"/proc/{owner}").exists():
            return False
        (folder / "claim").unlink(missing_ok=True)
        return claim(folder)
