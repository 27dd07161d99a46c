"""Scaling laws: what is fitted to made-up ladders is what they were made from, and the ladder itself in miniature."""

import json

import numpy as np
import pytest
import torch

from experiments import ladder
from experiments.rivals import runs as rivals
from minivar import data, models, presets, training
from minivar.analysis import scaling
from minivar.book import plots
from minivar.data import compositions
from minivar.presets.ladder import DEPTHS

SIZES = np.geomspace(1e4, 1e7, 8)
LAW = scaling.PowerLaw(-0.2, 3e-5, 0.0, -1.0)


def test_a_power_law_is_found_again():
    law = scaling.fit_power_law(SIZES, LAW(SIZES))
    assert law.alpha == pytest.approx(-0.2) and law.beta == pytest.approx(3e-5)
    assert law.pearson == pytest.approx(-1.0)
    np.testing.assert_allclose(law(SIZES), LAW(SIZES))


def test_a_floor_bends_the_line_and_is_found_again():
    losses = LAW(SIZES) + 2.0
    straight = scaling.fit_power_law(SIZES, losses)
    assert straight.alpha > -0.1 and straight.pearson > -0.999  # flatter, and bent
    law = scaling.fit_with_floor(SIZES, losses)
    assert law.floor == pytest.approx(2.0, abs=0.02)
    assert law.alpha == pytest.approx(-0.2, abs=0.01)
    assert scaling.fit_with_floor(SIZES, LAW(SIZES)).floor == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("x", "y", "floor", "words"),
    [
        ((1, 2), (2, 1), 0.0, "at least 3 points"),
        ((1, 2, 3), (3, 2), 0.0, r"got shapes \(3,\) and \(2,\)"),
        ((0, 2, 3), (3, 2, 1), 0.0, "x > 0"),
        ((1, 2, 3), (3, 2, 1), 1.0, "above its floor 1"),
    ],
)
def test_points_that_have_no_law_are_refused(x, y, floor, words):
    with pytest.raises(ValueError, match=words):
        scaling.fit_power_law(x, y, floor)


def test_the_bootstrap_covers_what_the_ladder_was_made_from():
    random = np.random.default_rng(0)
    runs = [[loss * np.exp(0.01 * random.standard_normal()) for _ in range(3)] for loss in LAW(SIZES)]
    laws = scaling.bootstrap_laws(SIZES, runs, draws=300)
    low, high = scaling.interval([law.alpha for law in laws])
    assert low < -0.2 < high and high - low < 0.02
    assert laws == scaling.bootstrap_laws(SIZES, runs, draws=300)  # of one seed
    wider = scaling.interval([law.alpha for law in scaling.bootstrap_laws(SIZES, runs, draws=40, floor=None)])
    assert wider[1] - wider[0] > high - low  # who does not know the floor knows less


def test_the_frontier_is_what_a_budget_buys():
    small, large = ([1.0, 10.0, 100.0], [5.0, 3.0, 2.9]), ([10.0, 100.0, 1000.0], [4.0, 2.0, 1.0])
    rows = scaling.frontier([small, large], points=4)  # budgets 1, 10, 100, 1000
    np.testing.assert_allclose(rows[:, 0], [1, 10, 100, 1000])
    np.testing.assert_allclose(rows[:, 1], [5, 3, 2, 1])
    np.testing.assert_array_equal(rows[:, 2], [0, 0, 1, 1])
    astray = ([1.0, 10.0, 100.0], [5.0, 3.0, 9.0])
    np.testing.assert_allclose(scaling.frontier([astray], points=3)[:, 1], [5, 3, 3])  # what was reached is kept


def test_figures_show_what_they_are_given():
    law = scaling.PowerLaw(-0.2, 3e-5, 2.0, -1.0)
    panel = plots.power_laws({"loss": (SIZES, [[loss] for loss in law(SIZES)], [law])}, "a title").axes[0]
    assert panel.get_legend_handles_labels()[1] == ["2.00 + 8.03 $x^{-0.2}$, r = -1.0000"]
    (line,) = (line for line in panel.lines if len(line.get_xdata()) == 100)
    np.testing.assert_allclose(line.get_ydata(), law(line.get_xdata()))

    left, right = plots.seen_and_heldout(list("abc"), [3.0, 2.5, 2.25], [3.0, 2.625, 2.5], "a title").axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), [3.0, 2.625, 2.5])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.0, 0.125, 0.25])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [np.nan, 0.375, 0.125])

    losses = np.arange(12.0).reshape(4, 3)  # four sizes, three scales
    ax = plots.losses_by_scale(SIZES[:4], losses, [20.0, 21.0, 22.0], "a title").axes[0]
    np.testing.assert_allclose(ax.lines[2].get_ydata(), losses[:, 1])
    assert list(ax.lines[3].get_ydata()) == [21.0, 21.0]
    assert ax.lines[2].get_color() == ax.lines[3].get_color() == plots.scale_colour(1)


def test_papers_parameters():
    assert scaling.transformer_parameters(16, 64 * 16) == 73_728 * 16**3
    for depth in (16, 30):  # 18 d D^2 leaves out embeddings, head and biases
        with torch.device("meta"):
            model = models.build(models.VARConfig.from_depth(depth))
        counted = sum(p.numel() for p in model.parameters())
        assert 0.96 < scaling.transformer_parameters(depth, 64 * depth) / counted < 1


# The data ---------------------------------------------------------------------------------------------------------


def test_quartets_are_four_digits_of_their_own_split(monkeypatch):
    moved, again = (data.load_quartets("heldout", 50) for _ in range(2))
    assert moved.images.shape == (50, 1, 28, 28) and moved.images.dtype == torch.uint8
    assert moved.fingerprint == again.fingerprint != data.load_quartets("train", 50).fingerprint
    for much in ("DEGREES", "SCALE", "SHIFT"):
        monkeypatch.setattr(compositions, much, 0.0)
    still = data.load_quartets("heldout", 50)
    digits = data.load_digits("heldout")
    index = torch.randint(len(digits), (50, 4), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(still.labels, digits.labels[index[:, 0]])
    for corner, (row, column) in enumerate(((0, 0), (0, 14), (14, 0), (14, 14))):
        small = torch.nn.functional.avg_pool2d(digits.images[index[:, corner]].float(), 2)
        there = still.images[:, :, row : row + 14, column : column + 14].float()
        torch.testing.assert_close(there, small, rtol=0, atol=1.0)  # rounded
    apart = (moved.images.float() - still.images.float()).abs().mean((1, 2, 3))
    assert (apart > 5).all()


def test_quartets_that_cannot_be():
    with pytest.raises(data.DataError, match="at least one image; got count 0"):
        data.load_quartets("train", 0)
    with pytest.raises(data.DataError, match="Unknown split 'test'"):
        data.load("quartets", "test")


# The ladder -------------------------------------------------------------------------------------------------------


def test_rungs_follow_the_papers_rule():
    counts = []
    for depth in DEPTHS:
        preset = presets.get(f"ladder-{depth}")
        assert (preset.model.width, preset.model.heads) == (16 * depth, depth)
        assert preset.model_train.epochs == 1 and preset.views == 1  # no image is seen twice
        counts.append(ladder.sizes(preset)["parameters"])
    assert len(counts) == 8 and counts[-1] > 100 * counts[0]


def test_rates_are_searched_outwards_before_a_rung_is_trained():
    def done(losses):
        return {f"r{rate}": {"depth": 2, "part": "rates", "rate": rate, "validation_loss": loss}
                for rate, loss in losses.items()}  # fmt: skip

    assert ladder.rate_of(2, {}) is None
    assert ladder.rate_of(2, done({16e-3: 3.0, 32e-3: 2.0, 64e-3: 1.0})) is None  # the best lies at the edge
    found = done({16e-3: 3.0, 32e-3: 2.0, 64e-3: 1.0, 128e-3: 1.5})
    assert ladder.rate_of(2, found) == 64e-3
    assert ladder.rate_of(3, found) is None  # nearer to 4
    assert ladder.rate_of(5, {k: {**v, "depth": 4} for k, v in found.items()}) == 64e-3


@pytest.mark.parametrize("of", ["ladder", "rivals"])
def test_a_search_that_was_stopped_is_no_result(monkeypatch, tmp_path, of):
    """It goes on when the command is given again; only a rate that breaks the training counts as infinitely bad."""
    stops = [training.Interrupted("asked to stop"), training.TrainingError("loss is nan")]

    def train(*_, **__):
        raise stops.pop(0)

    class NoTokens:
        load = cache = lambda *_: None

    monkeypatch.setattr(ladder, "RUNS", tmp_path)
    monkeypatch.setattr(ladder, "Tokens", NoTokens)
    monkeypatch.setattr(ladder.training, "train_model", train)
    monkeypatch.setattr(rivals.Run, "train", train)
    search = ladder.Rung(2, 99, 128e-3, "rates") if of == "ladder" else rivals.Run("var", 99, 128e-3, "rates")
    with pytest.raises(training.Interrupted):
        search.work()
    found = search.work()
    assert (found["validation_loss"], found["error"]) == (np.inf, "loss is nan")


def test_a_ladder_of_ones_own_knows_nothing_of_the_shipped_one(monkeypatch, tmp_path):
    for name in ("RUNS", "RESULTS", "PICTURES", "TOKENIZER"):
        monkeypatch.setattr(ladder, name, getattr(ladder, name))  # put back afterwards
    left = []
    monkeypatch.setattr(ladder, "work_off", lambda waiting: left.extend(job.folder for job in waiting()))
    ladder.main(["train", "--into", str(tmp_path / "again")])
    assert left[0] == tmp_path / "again" / "tokenizer"
    assert ladder.TOKENIZER.parent == tmp_path / "again"
    assert len(left) == 1 + len(ladder.SEARCHED) * len(ladder.RATES)
    ladder.main(["collect", "--into", str(tmp_path / "again")])
    assert json.loads((tmp_path / "again" / "ladder.json").read_text()) == {"runs": {}}


@pytest.mark.slow
def test_the_whole_ladder_in_miniature(monkeypatch, tmp_path):
    monkeypatch.setattr(compositions, "QUARTETS", {"train": 128, "validation": 32, "heldout": 32})
    monkeypatch.setattr(ladder, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(ladder, "RESULTS", tmp_path / "ladder.json")
    monkeypatch.setattr(ladder, "PICTURES", tmp_path / "ladder.npz")
    monkeypatch.setattr(ladder, "TOKENIZER", tmp_path / "ladder-tokenizer.safetensors")
    assert [job.name for job in ladder.waiting()][0] == "tokenizer"
    jobs = [ladder.Tokens(), ladder.Rung(2, 99, 8e-3, "rates"), ladder.Rung(2, 0, 8e-3)]
    left = list(jobs)
    monkeypatch.setattr(ladder, "waiting", lambda: [job for job in left if job.name not in ladder.results()])
    ladder.work_off(ladder.waiting)
    ladder.collect()
    runs = json.loads((tmp_path / "ladder.json").read_text())["runs"]
    assert set(runs) == {job.name for job in jobs}
    rung = runs["depth2-seed0"]
    assert rung["curve"][-1]["step"] == 2 and rung["curve"][-1]["validation_loss"] == rung["validation_loss"]
    assert len(rung["curve"][-1]["validation_scale_losses"]) == 4 and rung["seen"]["validation_loss"] > 0
    pictures = np.load(tmp_path / "ladder.npz")
    assert pictures["depth2-drawn"].shape == pictures["given"].shape == (10, 28, 28)
    assert (pictures["depth2-drawn"] != pictures["depth2-continued"]).any()
    monkeypatch.setattr(ladder, "RUNS", tmp_path / "elsewhere")  # another machine: the same tokenizer, encoded again
    monkeypatch.setattr(ladder.training, "train_tokenizer", None)
    known = ladder.Tokens().work()
    assert known == runs["tokenizer"]
    tokens = [ladder.TokenCache(tmp_path / where / "tokenizer" / "heldout") for where in ("runs", "elsewhere")]
    assert torch.equal(*(cache.tokens(torch.arange(32))[0] for cache in tokens))
