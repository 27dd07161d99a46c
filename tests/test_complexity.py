"""Cost: the closed form against torch's counter on the real sampling loops, and the exponents."""

import functools
import json
import math
from fractions import Fraction

import pytest
import torch

from minivar import cli, presets, sampling
from minivar.analysis import complexity
from minivar.analysis.complexity import doubling, every_side, fit_exponent, next_scale_steps, raster_steps
from minivar.book.exercises import REGISTRY
from minivar.models import GPT, VAR, GPTConfig, VARConfig
from minivar.scales import VAR_256, ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer


def pairs(steps) -> int:
    return sum(step.queries * step.keys for step in steps)


# Steps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 16])
def test_raster_pairs_follow_the_sums_of_the_paper(n):
    tokens = n * n
    assert pairs(raster_steps(tokens, cache=False)) == tokens * (tokens + 1) * (2 * tokens + 1) // 6
    assert pairs(raster_steps(tokens, cache=True)) == tokens * (tokens + 1) // 2


@pytest.mark.parametrize("scales", [1, 2, 5, 8])
def test_doubling_pairs_follow_the_geometric_series(scales):
    schedule = doubling(2 ** (scales - 1))
    # tokens so far at scale k, a = 2: (a^2k - 1) / (a^2 - 1)
    so_far = [Fraction(4**k - 1, 3) for k in range(1, scales + 1)]
    assert pairs(next_scale_steps(schedule, cache=False)) == sum(x * x for x in so_far)
    new = [4**k for k in range(scales)]
    assert pairs(next_scale_steps(schedule, cache=True)) == sum(a * b for a, b in zip(new, so_far, strict=True))


def test_steps_of_the_published_models():
    assert len(raster_steps(256, cache=True)) == 256
    steps = next_scale_steps(VAR_256, cache=True)
    assert len(steps) == 10
    assert sum(step.queries for step in steps) == sum(step.drawn for step in steps) == steps[-1].keys == 680


def test_captions_lengthen_every_step_and_pass_once_with_a_cache():
    first, second, *_ = raster_steps(4, cache=True, prefix=120)
    assert (first.queries, first.keys, second.queries, second.keys) == (120, 120, 1, 121)


# Closed form against counted --------------------------------------------------------------------------------------

SHAPE = {"width": 32, "heads": 2, "num_classes": 5, "codebook_size": 48}
SCHEDULE = ScaleSchedule((1, 2, 3, 5))
RASTER = {
    "llama": {},
    "gpt2": {"style": "gpt2"},
    "var": {"style": "var", "dropout": 0.0},
    "var, AdaLN": {"style": "var", "dropout": 0.0, "conditioning": "adaln"},
    "odd MLP": {"hidden": 44},
    "captions": {"caption_tokens": 3, "caption_dim": 10},
}
NEXT_SCALE = {"plain": {}, "shared AdaLN": {"shared_adaln": True}, "wide MLP": {"mlp_ratio": 5.0}}
NEXT_SCALE["class as a prefix"] = {"conditioning": "prefix"}


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("what", RASTER)
def test_closed_form_of_raster_equals_the_counter(what, cache):
    config = GPTConfig(depth=3, grid=(4, 5), **{**SHAPE, **RASTER[what]})
    gpt = GPT(config).eval()
    cond = torch.zeros(1, dtype=torch.int64) if not config.caption_tokens else torch.zeros(1, 3, 10)
    counted = complexity.count_flops(lambda: sampling.sample_raster(gpt, None, cond, use_cache=cache))
    steps = raster_steps(20, cache, config.prefix)
    assert counted["attention"] == complexity.attention_flops(steps, config)
    # without a cache the caption is projected once, and its rows pass through the layers at every step
    assert counted["model"] == counted["all"] == complexity.model_flops(steps, config)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("what", NEXT_SCALE)
def test_closed_form_of_next_scale_equals_the_counter(what, cache):
    config = VARConfig(depth=3, code_dim=6, schedule=SCHEDULE, **{**SHAPE, **NEXT_SCALE[what]})
    with torch.device("meta"):  # where resizing is no product
        var, quantizer = VAR(config).eval(), MultiScaleQuantizer(SCHEDULE, 48, 6)
        labels = torch.zeros(1, dtype=torch.int64)
        counted = complexity.count_flops(
            lambda: list(sampling.sample_scales(var, quantizer, labels, 0.0, use_cache=cache))
        )
    steps = next_scale_steps(SCHEDULE, cache)
    assert counted["attention"] == complexity.attention_flops(steps, config)
    assert counted["model"] == complexity.model_flops(steps, config)
    assert counted["all"] > counted["model"]  # the phi convolutions


@pytest.mark.parametrize(("order", "n"), zip(complexity.ORDERS, (4, 4, 8, 8), strict=True))
def test_small_models_of_the_chapters_agree_within_one_percent(order, n):
    row = complexity.measure(order, n, timing=False)
    for what in ("attention", "model"):
        assert row["counted"][what] == pytest.approx(row["closed"][what], rel=0.01)


def test_counting_does_not_depend_on_the_device():
    with torch.device("meta"):
        on_meta = complexity.count_flops(complexity.sampling("raster", 3)[0])
    assert on_meta == complexity.count_flops(complexity.sampling("raster", 3)[0])


def test_cache_bytes_are_those_of_the_real_caches(monkeypatch):
    made = []

    class Recorded(sampling.KVCache):
        def append(self, k_BHlE, v_BHlE):
            made.append(self)
            return super().append(k_BHlE, v_BHlE)

    for module in ("walk", "raster"):
        monkeypatch.setattr(f"minivar.sampling.{module}.KVCache", Recorded)
    for order, n in (("raster-cached", 4), ("next-scale-cached", 4)):
        made.clear()
        call, config, steps = complexity.sampling(order, n)
        call()
        real = sum(cache.k_BHLE.nbytes + cache.v_BHLE.nbytes for cache in set(made))
        expected = 2 * complexity.cache_bytes(steps, config, bytes_per_number=4)  # two sequences, float32
        spare = 2 * 2 * 2 * config.depth * config.width * 4 // 2  # raster allocates one slot for the last token
        assert expected <= real <= expected + spare


def test_the_small_models_of_the_chapters_differ_in_their_order_alone():
    gpt, var = complexity.small_gpt(4).config, complexity.small_var(4).config
    for config in (gpt, var):
        shape = (config.depth, config.width, config.heads, config.codebook_size, config.num_classes)
        assert shape == (2, 64, 1, 256, 10)
    assert (gpt.grid, gpt.style, var.schedule.final_grid, var.code_dim) == ((4, 4), "llama", (4, 4), 16)
    # SwiGLU's three matrices of 8 D / 3 are as many weights as the two of 4 D
    assert 3 * gpt.mlp_width * 64 == pytest.approx(2 * var.mlp_ratio * 64 * 64, rel=0.01)


@pytest.mark.parametrize(("seconds", "calls"), [(0.06, 4), (0.15, 3), (1.5, 2), (5.0, 1)])
def test_a_call_is_timed_three_times_unless_it_is_long(seconds, calls):
    clock, taken = [100.0], []

    def call():
        taken.append(seconds * (1.0 if len(taken) == 1 else 1.1))  # the second is the fastest, if there is one
        clock[0] += taken[-1]

    assert complexity.time_call(call, clock=lambda: clock[0]) == pytest.approx(min(taken))
    assert len(taken) == calls


def test_without_a_cache_no_bytes_are_counted_for_one():
    rows = [complexity.measure(order, 2, count=False, timing=False) for order in complexity.ORDERS]
    assert [row["cache_bytes"] for row in rows if "cached" not in row["order"]] == [0, 0]
    for row in rows:  # keys and values of width 64 in two layers, two bytes each
        if "cached" in row["order"]:
            assert row["cache_bytes"] == 2 * 64 * 2 * 2 * {"raster-cached": 4, "next-scale-cached": 5}[row["order"]]
    assert all(row["cache_bytes"] == 0 for row in complexity.published() if not row["cache"])


def test_weight_bytes_are_the_matrices_of_layers_and_head():
    for model in (complexity.small_gpt(4), complexity.small_var(4)):
        parts = [*model.blocks.parameters(), model.head.weight]
        matrices = sum(p.numel() for p in parts if p.dim() == 2)
        assert complexity.weight_bytes(model.config, 4) == 4 * matrices


def test_intensity_of_one_token_at_a_time_is_one_flop_per_byte():
    config = presets.get("llamagen-l-256").model
    steps = raster_steps(256, cache=True)
    alone = complexity.arithmetic_intensity(steps, config, cache=True)
    assert alone == pytest.approx(1, abs=0.05)  # a weight of 2 bytes is multiplied and added once
    assert complexity.arithmetic_intensity(steps, config, cache=True, batch=64) > 20 * alone


# Exponents --------------------------------------------------------------------------------------------------------


exponents = functools.cache(complexity.closed_exponents)  # a quarter of a million steps, needed by several tests


def test_a_power_law_is_found_exactly():
    fit = fit_exponent([2, 4, 8, 16], [5 * n**2.5 for n in (2, 4, 8, 16)])
    assert fit["exponent"] == pytest.approx(2.5)
    assert fit["error"] == pytest.approx(0, abs=1e-9)
    assert fit["last"] == pytest.approx(2.5)


def test_the_standard_error_is_that_of_least_squares():
    sides, noise = [2, 4, 8, 16], [1.0, 1.2, 0.9, 1.1]
    costs = [factor * n**3 for n, factor in zip(sides, noise, strict=True)]
    x, y = ([math.log(v) for v in values] for values in (sides, costs))
    mean_x, mean_y = sum(x) / 4, sum(y) / 4
    spread = sum((a - mean_x) ** 2 for a in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    fit = fit_exponent(sides, costs)
    assert fit["exponent"] == pytest.approx(slope)
    assert fit["error"] == pytest.approx(math.sqrt(left / 2 / spread))
    assert fit["last"] == pytest.approx(math.log(costs[-1] / costs[-2]) / math.log(2))


@pytest.mark.parametrize(
    ("order", "expected"), [("raster", 6), ("raster-cached", 4), ("next-scale", 4), ("next-scale-cached", 4)]
)
def test_attention_grows_as_the_text_says(order, expected):
    assert exponents((32, 64, 128, 256))[order]["exponent"] == pytest.approx(expected, abs=0.01)
    assert exponents((4, 8, 16, 32))[order]["exponent"] == pytest.approx(expected, abs=0.15)


def test_a_schedule_of_every_side_costs_more_than_the_geometric_one():
    found = exponents((64, 128, 256, 512))
    assert found["every-side"]["exponent"] == pytest.approx(7, abs=0.15)
    assert found["every-side-cached"]["exponent"] == pytest.approx(6, abs=0.15)
    assert every_side(3) == ScaleSchedule((1, 2, 3))


def test_published_models_spend_little_on_attention():
    rows = {(row["preset"], row["cache"]): row for row in complexity.published()}
    llamagen, var = rows["llamagen-l-256", True], rows["var-d16", True]
    assert (llamagen["steps"], llamagen["tokens"], var["steps"], var["tokens"]) == (256, 256, 10, 680)
    assert max(llamagen["attention_share"], var["attention_share"]) < 0.07
    assert var["model"] > 1.5 * llamagen["model"]  # next-scale does more work
    assert var["intensity"] > 40 * llamagen["intensity"]  # in fewer, fuller steps
    assert rows["llamagen-l-256", False]["model"] > 100 * llamagen["model"]


# Bad input, and the command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 3, 12, -4])
def test_a_doubling_schedule_ends_at_a_power_of_two(n):
    with pytest.raises(ValueError, match=rf"power of two; got {n}\."):
        doubling(n)


@pytest.mark.parametrize(
    ("sides", "costs"), [([2, 4], [1, 2]), ([2, 2, 2], [1, 1, 1]), ([2, 4, 8], [1, 2]), ([2, 4, 8], [1, 0, 2])]
)
def test_an_exponent_needs_three_sides_with_a_cost_each(sides, costs):
    with pytest.raises(ValueError, match="three or more different n"):
        fit_exponent(sides, costs)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="Unknown order 'spiral': expected one of raster, raster-cached"):
        complexity.sampling("spiral", 4)


def test_the_command_prints_everything(monkeypatch, capsys):
    monkeypatch.setattr(complexity, "time_call", functools.partial(complexity.time_call, at_least=0.01))
    assert cli.main(["complexity", "--json", "--sides", "1,2,4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["rows"]) == 12
    for row in report["rows"]:
        assert row["seconds"]["model"] > 0
        assert row["counted"]["model"] == row["closed"]["model"]
        assert row["steps"] == (row["n"] ** 2 if "raster" in row["order"] else row["n"].bit_length())
        assert (row["cache_bytes"] > 0) == row["order"].endswith("cached")
        assert row["intensity"] > 0
    for order in complexity.ORDERS:
        fits = report["exponents"][order]
        assert fits["counted"] == fits["closed"]
        assert all(fits[how][what]["error"] >= 0 for how in fits for what in ("attention", "model"))
    text = complexity.as_text(report)
    assert all(name in text for name in complexity.ORDERS.values())


@pytest.mark.parametrize(
    ("sides", "words"),
    [("4,a", "list of powers of two"), ("4,6,8", "got '4,6,8'"), ("4,8", "three or more different n")],
)
def test_sides_that_cannot_be_meant_are_refused(capsys, sides, words):
    assert cli.main(["complexity", "--sides", sides, "--no-timing"]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


# What readers type in chapters 03 and 03a ---------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [False, True])
def test_pairs_and_flops_of_the_exercises_are_the_packages(cache):
    pairs_of, flops_of = (REGISTRY[name].solution for name in ("count_pairs", "raster_flops"))
    config = presets.get("llamagen-l-256").model
    steps = raster_steps(49, cache)
    assert REGISTRY["queries_and_keys"].solution(49, cache) == [(s.queries, s.keys) for s in steps]
    assert pairs_of(49, 1, cache) == pairs(steps)
    assert pairs_of(49, 120, cache) == pairs(raster_steps(49, cache, prefix=120))
    by_hand = flops_of(config, sum(s.queries for s in steps), pairs(steps), 49)
    assert by_hand == (complexity.attention_flops(steps, config), complexity.model_flops(steps, config))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("width, hidden", [(64, 170), (128, 128), (1024, 2816)])
def test_the_crossover_of_the_exercise_is_the_first_n_with_half_of_the_work(width, hidden, cache):
    config = GPTConfig(1, width, 1, grid=None, codebook_size=1, hidden=hidden)

    def attention_leads(n: int) -> bool:
        steps = raster_steps(n * n, cache)
        layers = complexity.model_flops(steps, config) - 2 * width * len(steps)  # without the head
        return 2 * complexity.attention_flops(steps, config) >= layers

    n = REGISTRY["crossover"].solution(width, hidden, cache)
    assert attention_leads(n) and not attention_leads(n - 1)


def test_caches_and_bytes_of_the_exercises_are_the_packages():
    config = presets.get("llamagen-l-256").model
    steps = raster_steps(256, cache=True)
    kept = REGISTRY["kept_bytes"].solution(config, config.heads, 2)
    assert 256 * kept == complexity.cache_bytes(steps, config)
    read = REGISTRY["bytes_read"].solution(complexity.weight_bytes(config), kept, 256, 8)
    intensity = complexity.arithmetic_intensity(steps, config, True, batch=8)
    assert math.isclose(8 * complexity.model_flops(steps, config) / read, intensity)


def test_a_clock_of_ones_own_may_time_calls():
    ticks = iter(range(100))
    assert complexity.time_call(lambda: None, at_least=5, clock=lambda: next(ticks)) == 1
