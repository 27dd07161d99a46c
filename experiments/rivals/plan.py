"""Which runs there are to be, in which order, and who works on which."""

import itertools

from experiments.rivals.runs import (
    AFTER,
    FIVE_SEEDS,
    RATE_SEED,
    RATES,
    RUNGS,
    SHALLOW,
    TOKENIZERS,
    VARIANTS,
    WORLDS,
    Run,
    TokenizerRun,
)

Done = dict[str, dict]  # results of finished runs by name


def rates_of(side: str, done: Done, world: str = "digits") -> dict[float, float]:
    """Validation loss by learning rate, of the runs that search it."""
    found = {}
    for result in done.values():
        if (result["side"], result["part"], result.get("world", "digits")) == (side, "rates", world):
            found[result["rate"]] = result["validation_loss"]
    return found


def best_rate(side: str, done: Done, world: str = "digits") -> float | None:
    """The rate with the lowest validation loss, once it does not lie at the edge of what was tried; else None."""
    losses = rates_of(side, done, world)
    if not set(RATES) <= set(losses):
        return None
    best = min(losses, key=losses.get)
    return best if min(losses) < best < max(losses) else None


def plan(done: Done) -> list[Run | TokenizerRun]:
    """The runs that can be said by now, world by world: seeds follow when the rate of their side is known."""
    runs = [run for world in WORLDS for run in plan_of(world, done)]
    waiting = [run for run in runs if run.name not in done]
    needed = {run.tokenizer for run in waiting if isinstance(run, Run)}  # trained again where they are not here
    return [run for run in runs if run in waiting or (run in needed and not run.is_here)]


def as_long_as_var(best: dict[str, float], done: Done) -> list[Run]:
    """Three seeds of every side that is quicker to train than VAR, for as many minutes as that took."""
    runs = []
    for seed, side in itertools.product(range(3), best):
        minutes = [done.get(f"{each}-seed{seed}", {}).get("minutes") for each in ("var", side)]
        if all(minutes) and minutes[0] > 1.05 * minutes[1]:
            runs.append(Run(side, seed, best[side], "time", longer=round(minutes[0] / minutes[1], 2)))
    return runs


def plan_of(world: str, done: Done) -> list[Run | TokenizerRun]:
    """All runs of a world, finished ones too."""
    sides = WORLDS[world]
    runs: list[Run | TokenizerRun] = [TokenizerRun(side, 0, world=world) for side in TOKENIZERS.values()]
    runs += [Run(side, RATE_SEED, rate, "rates", world) for side in sides for rate in RATES]
    for side in sides:
        losses = rates_of(side, done, world)
        if set(RATES) <= set(losses) and best_rate(side, done, world) is None:
            edge = min(losses, key=losses.get)
            runs.append(Run(side, RATE_SEED, edge * 2 if edge == max(losses) else edge / 2, "rates", world))
    best = {side: rate for side in sides if (rate := best_rate(side, done, world))}
    for seed in range(5):
        if 0 < seed < 3:
            runs += [TokenizerRun(side, seed, world=world) for side in TOKENIZERS.values()]
        five = FIVE_SEEDS if world == "digits" else ()
        runs += [Run(side, seed, rate, world=world) for side, rate in best.items() if seed < 3 or side in five]
    if world == "digits" and "var" in best:
        runs += [Run("var", seed, best["var"], "after", variant=name) for seed in range(3) for name in AFTER]
        runs += [Run(side, seed, best[side], "depth") for seed in range(3) for side in SHALLOW if side in best]
        runs += [Run("var", seed, best["var"], "rungs", variant=rung) for seed in range(3) for rung in RUNGS]
        runs += as_long_as_var(best, done)
        for seed, variant in itertools.product(range(3), VARIANTS):
            run = Run("var", seed, best["var"], "variants", variant=variant)
            runs += [run.tokenizer, run]
    return runs
