"""The planner: traced memory against real memory, arithmetic by hand, published runs, bad input."""

import shlex

import pytest
import torch
from conftest import var_config
from test_cli import refused, run

from minivar import cli, presets
from minivar.analysis import planner
from minivar.models import GPT, VAR, GPTConfig
from minivar.training.recompute import recompute as recompute_activations

GPT_SMALL = GPTConfig(depth=2, width=32, heads=2, grid=(4, 4), codebook_size=50, num_classes=5, hidden=64)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("config", [var_config(), GPT_SMALL], ids=["VAR", "GPT"])
def test_traced_activations_are_those_of_a_real_forward(config, recompute):
    model = (GPT if isinstance(config, GPTConfig) else VAR)(config).train()
    if recompute:
        recompute_activations(model)
    traced = planner.trace_activations(config, recompute, precision=None)
    for batch in (1, 3):
        real = planner.kept_bytes(model, batch, None)
        assert traced.of(batch) == pytest.approx(real, rel=0.02)


def test_recomputing_keeps_less():
    config = presets.get("duel-var").model
    kept = [planner.trace_activations(config, recompute).per_image for recompute in (False, True)]
    assert kept[1] < 0.5 * kept[0]


def test_kept_bytes_of_a_known_graph(monkeypatch):
    class Known(torch.nn.Module):
        config = GPT_SMALL

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(7, 50))

        def forward(self, labels, inputs):
            return torch.ones(len(labels), 16, 7) @ self.weight  # keeps its input: 16 x 7 floats an image

    # and cross-entropy keeps log-probabilities, 16 x 50 floats, its targets, 16 integers, and the sum of weights
    extra = [planner.kept_bytes(Known(), batch, None) for batch in (1, 2)]
    assert extra[1] - extra[0] == 4 * 16 * 7 + 4 * 16 * 50 + 8 * 16


def test_a_plan_adds_up():
    found = planner.plan("var-d16", 16, utilisation=0.5)
    parameters, shards = 310_283_520, 16
    assert found["parameters"] == parameters
    memory = found["memory"]
    assert memory["weights"] == memory["gradients"] == 4 * parameters // shards
    assert memory["optimiser"] == 8 * parameters // shards
    assert memory["sum"] == sum(value for key, value in memory.items() if key != "sum")
    assert found["images per GPU at a time"] == 768 // 16
    assert found["steps"] == 200 * (1_281_167 // 768)
    seconds = found["steps"] * found["FLOPs per step"] / (16 * 312e12 * 0.5)
    assert found["days"] == pytest.approx(seconds / 86400)
    assert found["GPU-days"] == pytest.approx(16 * found["days"])
    assert found["token cache"] == 10 * 1_281_167 * 680 * 2


def test_forward_flops_are_two_for_every_weight_and_token():
    found = planner.plan("llamagen-l-256", 8)
    matrices = 12 * 2 * 24 * 1024**2  # roughly: 12 D^2 weights a layer, 2 FLOPs each
    tokens = 256
    forward = found["FLOPs per step"] / 3 / 256
    assert forward == pytest.approx(matrices * tokens, rel=0.2)


def test_ddp_keeps_everything_everywhere():
    spread, whole = (planner.plan("var-d16", 8, strategy=s)["memory"] for s in ("fsdp", "ddp"))
    assert whole["weights"] == pytest.approx(8 * spread["weights"], rel=1e-6)
    assert whole["activations"] == spread["activations"]


def test_recomputing_costs_a_fourth_pass_and_saves_activations():
    plain, again = (planner.plan("duel-var", 8, recompute=r) for r in (False, True))
    assert again["FLOPs per step"] * 3 == plain["FLOPs per step"] * 4  # forward, twice that backward, forward again
    assert again["days"] == pytest.approx(plain["days"] * 4 / 3)
    together = 64 // 8
    model = presets.get("duel-var").model
    for found, recompute in ((plain, False), (again, True)):
        traced = planner.trace_activations(model, recompute)
        assert found["memory"]["activations"] == traced.fixed + together * traced.per_image
    assert again["memory"]["activations"] < 0.5 * plain["memory"]["activations"]
    others = [{k: v for k, v in p["memory"].items() if k not in ("activations", "sum")} for p in (plain, again)]
    assert others[0] == others[1]


def test_a_preset_that_recomputes_is_planned_so_unless_told_otherwise():
    asked = {"model_train.recompute": True}
    by_preset, plain = planner.plan("duel-var", 1, overrides=asked), planner.plan("duel-var", 1)
    assert by_preset == planner.plan("duel-var", 1, recompute=True)
    assert planner.plan("duel-var", 1, recompute=False, overrides=asked) == plain
    assert by_preset["memory"]["activations"] < plain["memory"]["activations"]


def test_spread_models_gather_two_blocks_at_a_time():
    with torch.device("meta"):
        model = VAR(presets.get("duel-var").model)
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    gathered = [
        planner.plan("duel-var", gpus, strategy=strategy)["memory"]["gathered blocks"]
        for gpus, strategy in ((8, "fsdp"), (8, "ddp"), (1, "fsdp"))
    ]
    assert gathered == [2 * 4 * block, 0, 0]


def test_a_plan_fits_where_a_tenth_of_the_memory_is_left(monkeypatch):
    found = planner.plan("duel-var", 1)
    needed = found["memory"]["sum"]
    for memory, fits in ((needed / 0.91, False), (needed / 0.89, True)):
        monkeypatch.setitem(planner.MEMORY, "h100", memory)
        assert planner.plan("duel-var", 1, gpu="h100")["fits"] == fits
    faster = planner.plan("duel-var", 1, gpu="h100")
    assert found["days"] / faster["days"] == pytest.approx(989 / 312)
    seconds = found["days"] * 86400
    assert found["images per second"] == pytest.approx(found["steps"] * 64 / seconds)


@pytest.mark.parametrize(("strategy", "shards"), [("fsdp", 8), ("ddp", 1)])
def test_averaged_weights_take_as_much_as_weights(strategy, shards):
    plain = planner.plan("duel-var", 8, strategy=strategy)
    averaged = planner.plan("duel-var", 8, strategy=strategy, overrides={"model_train.ema": 0.999})
    assert plain["memory"]["ema"] == 0
    assert averaged["memory"]["ema"] == 4 * averaged["parameters"] // shards == averaged["memory"]["weights"]
    assert averaged["memory"]["sum"] == plain["memory"]["sum"] + averaged["memory"]["ema"]


def test_accumulating_holds_fewer_images_at_a_time_and_costs_the_same():
    plain, parts = planner.plan("duel-var", 8), planner.plan("duel-var", 8, accumulate=4)
    assert (plain["images per GPU at a time"], parts["images per GPU at a time"]) == (8, 2)
    assert parts["days"] == plain["days"]
    per_image = planner.trace_activations(presets.get("duel-var").model).per_image
    assert plain["memory"]["activations"] - parts["memory"]["activations"] == 6 * per_image


def test_published_runs_imply_a_utilisation_that_gpus_reach():
    rows = planner.implied_utilisation()
    assert len(rows) == 7
    for row in rows:  # so a plan at 0.3 is off by a factor of 1.6 at most
        assert 0.3 / 1.6 < row["utilisation"] < 0.3 * 1.6, row


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if name.startswith(("var-", "llamagen-"))])
def test_every_published_preset_has_a_script(name):
    text = planner.slurm_script(name, 16)
    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=2\n" in text
    assert f"--preset {name} --device cuda --strategy fsdp" in text


@pytest.mark.parametrize("name", [name for name in presets.PRESETS if name.startswith(("var-", "llamagen-"))])
def test_every_published_preset_has_a_command_for_one_machine(name):
    words = shlex.split(planner.one_node(name, 8, "ddp"))
    assert words[:5] == [".venv/bin/torchrun", "--standalone", "--nproc-per-node=8", "-m", "minivar.cli"]
    args = cli.build_parser().parse_args(words[5:])
    assert (args.preset, args.device, args.strategy, args.data) == (name, "cuda", "ddp", "$DATA")


def test_recipes_are_the_published_ones():
    assert planner.recipe("var-d16") == (
        "batch 768, learning rate 0.0003, 200 epochs; published: 2.5 days on 16 GPUs, 40 GPU-days"
    )
    assert planner.recipe("var-d30") == "batch 1024, learning rate 0.00032, 350 epochs"
    assert planner.recipe("llamagen-3b-256") == (
        "batch 512, learning rate 0.0002, 300 epochs; published: 5 days on 32 GPUs, 160 GPU-days"
    )
    assert planner.recipe("var-d36-s") in planner.slurm_script("var-d36-s", 256)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpus", 0), "at least one GPU"),
        (("--gpus", -1), "at least one GPU"),
        (("--utilisation", 1.5), "utilisation in (0, 1]"),
        (("--utilisation", 0), "utilisation in (0, 1]"),
        (("--utilisation", "nan"), "utilisation in (0, 1]"),
        (("--accumulate", 0), "accumulate must be a whole number of at least 1; got 0"),
        (("--gpus", 7), "multiple of GPUs x accumulate; got 7 GPUs"),
        (("--preset", "var-d99"), "Unknown preset 'var-d99'"),
        (("--gpus", 12, "--slurm"), "12 GPUs do not fill nodes of 8"),
    ],
)
def test_impossible_plans_are_refused(capsys, options, words):
    assert words in refused(capsys, "plan", *options)


def test_the_command_prints_a_table(capsys):
    printed = run(capsys, "plan", "--preset", "var-d16", "--gpus", 64)
    assert "310 M parameters" in printed
    assert "activations" in printed
    assert "torchrun" not in printed  # 64 GPUs are not on one machine
    assert planner.one_node("var-d16", 8, "ddp") in run(capsys, "plan", "--gpus", 8, "--strategy", "ddp")
    assert "torchrun" in run(capsys, "plan", "--preset", "var-d16", "--gpus", 64, "--slurm")
