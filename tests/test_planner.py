"""The planner: both trainings of a preset against arithmetic by hand, published runs, bad input."""

import pytest
import torch
from test_cli import refused, run

from minivar import cli, presets
from minivar.analysis import launch, memory, planner
from minivar.models import VAR
from minivar.tokenizer import VQVAE


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
    found = planner.plan("duel-llamagen", 1)
    matrices = 4 * (4 * 128**2 + 3 * 128 * 392) + 128 * 512  # of four layers, and of the output
    tokens = 49
    forward = found["FLOPs per step"] / 3 / 64
    assert forward == pytest.approx(2 * matrices * tokens, rel=0.1)  # attention is the rest


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
        traced = memory.transformer_activations(model, recompute)
        assert found["memory"]["activations"] == traced.fixed + together * traced.per_image
    assert again["memory"]["activations"] < 0.5 * plain["memory"]["activations"]
    others = [{k: v for k, v in p["memory"].items() if k not in ("activations", "sum")} for p in (plain, again)]
    assert others[0] == others[1]


def test_a_preset_that_recomputes_is_planned_so_unless_told_otherwise():
    asked = {"model_train.recompute": True, "tokenizer_train.recompute": True}
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
    for size, fits in ((needed / 0.91, False), (needed / 0.89, True)):
        monkeypatch.setitem(planner.MEMORY, "h100", size)
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
    assert (plain["accumulate"], parts["accumulate"]) == (1, 4)
    assert parts["days"] == plain["days"]
    per_image = memory.transformer_activations(presets.get("duel-var").model).per_image
    assert plain["memory"]["activations"] - parts["memory"]["activations"] == 6 * per_image


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_accumulated_gradients_are_held_whole_on_every_gpu(strategy):
    plain, parts = (planner.plan("duel-var", 8, strategy=strategy, accumulate=n)["memory"] for n in (1, 2))
    parameters = sum(p.numel() for p in VAR(presets.get("duel-var").model).parameters())
    assert plain["held gradients"] == 0
    assert parts["held gradients"] == 4 * parameters
    assert parts["gradients"] == plain["gradients"]
    assert planner.plan("duel-var", 1, strategy=strategy, accumulate=2)["memory"]["held gradients"] == 0


def test_the_tokenizer_is_planned_beside_the_transformer():
    found = planner.plan("folder-smoke", 4, images=960, strategy="fsdp")["tokenizer"]
    preset = presets.get("folder-smoke")
    tokenizer, objective = memory.tokenizer_and_loss(preset.tokenizer, preset.tokenizer_loss)
    parameters = sum(p.numel() for p in VQVAE(preset.tokenizer).parameters())
    learning = parameters + sum(p.numel() for p in objective.discriminator.parameters())
    assert found["parameters"] == parameters
    needed = found["memory"]
    assert needed["weights"] == needed["gradients"] == 4 * learning  # DDP, whatever the transformer has
    assert needed["optimiser"] == 8 * learning
    assert needed["LPIPS"] == 0
    assert (found["steps"], found["images per GPU at a time"]) == (6 * 20, 12)
    traced = memory.tokenizer_activations(preset.tokenizer, preset.tokenizer_loss)
    assert needed["activations"] == traced.of(12)
    image = torch.zeros(1, 3, 32, 32, device="meta")
    forward = planner.complexity.count_flops(lambda: tokenizer(image))["all"]
    judged = planner.complexity.count_flops(lambda: objective.discriminator(image))["all"]
    assert found["FLOPs per step"] == 48 * (3 * forward + 8 * 0.5 * judged)  # which begins at half of the run
    again = planner.plan("folder-smoke", 4, images=960, recompute=True)["tokenizer"]
    assert again["FLOPs per step"] == 48 * (4 * forward + 8 * 0.5 * judged)
    assert again["memory"]["activations"] < needed["activations"]


def test_lpips_has_its_weights_and_three_passes():
    asked = {"tokenizer_loss.perceptual": 1.0}
    plain, seen = (planner.plan("folder-smoke", 1, overrides=o)["tokenizer"] for o in ({}, asked))
    convolutions = 14_714_688  # VGG-16 without its classifier (arXiv 1409.1556, configuration D)
    assert seen["memory"]["LPIPS"] == pytest.approx(4 * convolutions, rel=1e-3)  # and the weights of the comparison
    # VGG-16 takes 15.5 G multiplications of an image of 224 pixels, nearly all in convolutions
    forward = 2 * 15.35e9 * (32 / 224) ** 2
    assert seen["FLOPs per step"] - plain["FLOPs per step"] == pytest.approx(48 * 3 * forward, rel=0.02)


def test_images_are_those_of_the_data_set_unless_told():
    assert planner.plan("duel-var", 1)["steps"] == planner.plan("duel-var", 1)["tokenizer"]["steps"] == 1500
    assert planner.plan("duel-var", 1, images=6_400)["steps"] == round(1500 / 450 * 100)
    assert planner.plan("folder-smoke", 1)["steps"] == 5 * (1_281_167 // 48)


@pytest.mark.slow
def test_published_runs_imply_a_utilisation_that_gpus_reach():
    rows = planner.implied_utilisation()
    assert [row["preset"] for row in rows] == ["var-d16", "var-d30, 512 px"]  # LlamaGen's are costs, and no more
    assert [row["at most"] for row in rows] == [False, True]
    for row in rows:  # so a plan at 0.3 is off by a factor of 1.6 at most
        assert 0.3 / 1.6 < row["utilisation"] < 0.3 * 1.6, row


@pytest.mark.slow
@pytest.mark.parametrize("name", ["var-d16", "var-d30", "var-d36-s", "llamagen-3b-384"])
def test_published_runs_fit_eight_gpus_if_slowly(name):
    found = planner.plan(name, 8, strategy="fsdp")
    assert found["fits"] and found["tokenizer"]["fits"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "images"), [("cifar32", None), ("folder128", 100_000)])
def test_runs_for_one_gpu_fit_it_and_take_a_night(name, images):
    found = planner.plan(name, 1, gpu="rtx3090", utilisation=0.3, images=images)
    for stage in (found, found["tokenizer"]):
        assert stage["memory"]["sum"] < 0.8 * 24e9
    assert 4 < 24 * (found["days"] + found["tokenizer"]["days"]) < 12  # hours
    assert 2e6 < found["parameters"] < 310e6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gpus", 0), "at least one GPU"),
        (("--gpus", -1), "at least one GPU"),
        (("--utilisation", 1.5), "utilisation in (0, 1]"),
        (("--utilisation", 0), "utilisation in (0, 1]"),
        (("--utilisation", "nan"), "utilisation in (0, 1]"),
        (("--accumulate", 0), "accumulate must be a whole number of at least 1; got 0"),
        (("--gpus", 7), "The tokenizer of var-d16 cannot be trained so: A batch of 768 images must be a multiple"),
        (("--gpus", 7), "got 7 ranks and accumulate 1, expected 6 or 8 ranks, or a batch of 763 or 770"),
        (("--images", 0), "--images must be at least 1; got 0"),
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
    assert launch.one_node("var-d16", 8, "ddp") in run(capsys, "plan", "--gpus", 8, "--strategy", "ddp")
    assert "torchrun" in run(capsys, "plan", "--preset", "var-d16", "--gpus", 64, "--slurm")


def test_a_plan_takes_changes_of_the_preset_as_training_does(capsys):
    sides = "1,2,3,4,6,9,13,18,24"
    changed = ["--set", "tokenizer.image_size=192", "--set", f"tokenizer.schedule={sides}"]
    changed += ["--set", f"model.schedule={sides}", "--set", "model.num_classes=37"]
    command = ["plan", "--preset", "folder128", "--gpus", "1", "--strategy", "ddp"]
    assert cli.main(command) == 0
    before = capsys.readouterr().out
    assert cli.main([*command, *changed]) == 0
    assert capsys.readouterr().out != before
    assert cli.main([*command, *changed[:4]]) == 2  # a tokenizer of 24 x 24 and a transformer of 16 x 16
    assert cli.main([*command, "--slurm", *changed]) == 2
    assert "--slurm prints the command of the preset as it is; got --set" in capsys.readouterr().err
