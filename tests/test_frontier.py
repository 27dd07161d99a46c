"""The frontier of chapter 07a: its results are those of all the variants in the script, which fit their models."""

import json

import pytest
import torch

from experiments import frontier
from minivar import checkpoints, data, evaluation
from minivar.presets import get


@pytest.mark.parametrize("family", ["digits", "emoji"])
def test_every_variant_was_drawn_three_times_and_timed(family):
    found = json.loads(frontier.RESULTS.read_text())[family]
    assert found.keys() == frontier.VARIANTS.keys()
    for name, variant in frontier.VARIANTS.items():
        assert (found[name]["kind"], found[name]["about"]) == (variant.kind, variant.about)
        assert found[name]["scores"].keys() == set(map(str, frontier.SEEDS))
        assert all(scores["distance"] > 0 for scores in found[name]["scores"].values())
        assert found[name]["milliseconds"].keys() == {"1", "64"}
        assert found[name]["milliseconds"]["64"]["median"] > 0


@pytest.mark.parametrize("family", ["digits", "emoji"])
def test_variants_fit_the_shipped_model_and_one_that_is_trained_beside_it(family):
    _, model, _ = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / family)
    small, revealed = (get(*frontier.TRAININGS[f"{family}-{kind}"]).model for kind in ("small", "revealed"))
    assert revealed.revealed == 0.5 and (revealed.depth, revealed.width) == (model.config.depth, model.config.width)
    with torch.device("meta"):
        refiner = type(model)(small)
    for variant in frontier.VARIANTS.values():
        variant.economy.check_for(model, refiner if variant.refiner else None)


def test_a_layout_says_where_colours_lie_and_change():
    images = torch.full((2, 3, 32, 32), -1.0)
    images[1, 0, :8, :8] = 1.0  # red in the first of sixteen parts
    plain, red = evaluation.layout(images)
    assert plain.tolist() == [-1.0] * 48 + [0.0] * 32
    changed = (red != plain).nonzero().flatten().tolist()
    assert changed[:1] == [0] and red[0] == 1
    assert {each - 48 for each in changed[1:]} <= {0, 16}  # brightness changes at the borders of that part alone
