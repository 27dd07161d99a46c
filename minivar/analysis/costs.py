"""What published runs took, as their authors say, and what a preset is trained with."""

from collections.abc import Mapping
from typing import NamedTuple

from minivar import presets
from minivar.scales import VAR_512


class Published(NamedTuple):
    """A run of which epochs, resolution and days are known: VAR's, in issue 44 of its tracker."""

    name: str
    gpus: int  # A100
    days: float
    preset: str | None = None  # None: called like the run
    overrides: Mapping[str, object] | None = None  # what was not as in the preset
    at_most: bool = False  # whether the utilisation that it implies is an upper bound


PUBLISHED = (
    Published("var-d16", 16, 2.5),
    # "About" 4 days, and not released. It was trained progressively: part of the run saw smaller pyramids, how much
    # of it is not said. Counted as if every step had all 2,240 tokens, it did more than it did.
    Published("var-d30, 512 px", 256, 4, "var-d30", {"model.schedule": VAR_512}, at_most=True),
)

# LlamaGen's (GPUs, days) for each size, from its authors' answer in issue 8 of its tracker. They name neither the
# resolution nor the epochs, so these are costs: no utilisation follows from them. The GPUs are A100 of 80 GB
# (arXiv 2406.06525, section 2.4).
LLAMAGEN_COSTS = {"b": (8, 1), "l": (8, 2), "xl": (16, 3), "xxl": (32, 4), "3b": (32, 5)}


def recipe(name: str) -> str:
    """What a preset's transformer is trained with, and what its authors' run cost where that is known."""
    config = presets.get(name).model_train
    rate = config.base_lr * config.batch_size / 256
    return f"batch {config.batch_size}, learning rate {rate:g}, {config.epochs:g} epochs{_known_cost(name)}"


def _known_cost(name: str) -> str:
    found = {run.name: (run.gpus, run.days, "published: ") for run in PUBLISHED}
    for size, cost in LLAMAGEN_COSTS.items():
        for pixels in (256, 384):
            found[f"llamagen-{size}-{pixels}"] = (*cost, "its authors, of a resolution and epochs not named: ")
    if name not in found:
        return ""
    gpus, days, source = found[name]
    return f"; {source}{days:g} day{'s' * (days != 1)} on {gpus} GPUs, {days * gpus:g} GPU-days"
