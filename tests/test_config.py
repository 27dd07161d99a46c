"""Configurations: what their fields may hold, and how a preset's are changed, from Python and from a command line."""

import dataclasses
import math

import pytest
import torch

from minivar import presets
from minivar.checks import annotations, check, fits, in_words
from minivar.evaluation.judges import ClassifierConfig
from minivar.models import GPTConfig, TextVARConfig, VARConfig
from minivar.presets.overrides import as_text, parse, parse_settings
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.scales import VAR_512, ScaleSchedule
from minivar.tokenizer import DiscriminatorConfig, LossConfig, LossError, NetConfig, TokenizerConfig
from minivar.training import Preset, TrainConfig, TrainingError

INF, NAN = math.inf, math.nan


def sentence(error) -> str:
    """The message of an error, which must be one sentence."""
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


# The checks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (3, int, True),
        (3.0, int, False),
        (True, int, False),
        ("3", int, False),
        (None, int, False),
        (3, float, True),
        (2.5, float, True),
        (True, float, False),
        (10**400, float, False),  # no float is as large
        (True, bool, True),
        (1, bool, False),
        ("a", str, True),
        (None, str, False),
        (None, int | None, True),
        (3, int | None, True),
        (3.5, int | None, False),
        ((1, 2), tuple[int, int], True),
        ((1,), tuple[int, int], False),
        ((1, 2, 3), tuple[int, int], False),
        ([1, 2], tuple[int, int], False),
        ((1, 2.5), tuple[int, int], False),
        ((1, 2.5), tuple[float, float], True),
        ((), tuple[int, ...], True),
        ((1, 2, 3), tuple[int, ...], True),
        ((1, "2"), tuple[int, ...], False),
        (5, int | tuple[int, int] | None, True),
        ((5, 6), int | tuple[int, int] | None, True),
        (VAR_512, ScaleSchedule | None, True),
        ((1, 2), ScaleSchedule, False),
        (GPTConfig(), VARConfig | GPTConfig, True),
        (NetConfig(), VARConfig | GPTConfig, False),
    ],
)
def test_a_value_fits_its_annotation_or_not(value, hint, fit):
    assert fits(value, hint) is fit


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        ("[1, inf)", (1, 2, 1e300), (0.999, 0, -1, INF, NAN)),
        ("(0, inf)", (1e-300, 5), (0, -1e-300, INF, NAN, -INF)),
        ("[0, 1)", (0, 0.5, 0.999), (-0.001, 1, NAN)),
        ("(0, 1]", (0.001, 1), (0, 1.001, NAN)),
        ("[2, 1e3]", (2, 1000), (1.9, 1000.1)),
    ],
)
def test_brackets_say_whether_a_bound_is_inside(within, inside, outside):
    assert all(fits(value, float, within) for value in inside)
    assert not any(fits(value, float, within) for value in outside)
    assert fits(None, float | None, within)
    assert fits((inside[0], inside[-1]), tuple[float, float], within)
    assert not fits((inside[0], outside[0]), tuple[float, float], within)


def test_texts_are_chosen_from():
    assert fits("a", str, ("a", "b")) and not fits("c", str, ("a", "b"))


@pytest.mark.parametrize(
    ("hint", "within", "words"),
    [
        (int, None, "a whole number"),
        (int, "[1, inf)", "a whole number of at least 1"),
        (float, "(0, inf)", "a finite number above 0"),
        (float, "[0, 1)", "a number in [0, 1)"),
        (float | None, "[0, inf)", "a finite number of at least 0, or none"),
        (tuple[float, float], "[0, 1)", "two numbers in [0, 1)"),
        (tuple[int, ...], None, "whole numbers"),
        (int | tuple[int, int] | None, None, "a whole number or two whole numbers, or none"),
        (bool, None, "true or false"),
        (str, None, "a text"),
        (str, ("a", "b", "c"), "'a', 'b' or 'c'"),
        (ScaleSchedule, None, "a ScaleSchedule"),
    ],
)
def test_what_is_expected_is_said_in_words(hint, within, words):
    assert in_words(hint, within) == words


def test_a_check_names_field_expectation_and_value():
    @dataclasses.dataclass(frozen=True)
    class Config:
        size: int = 1
        share: float = 0.5

        def __post_init__(self) -> None:
            check(self, TrainingError, size="[1, inf)")

    Config(share=INF)  # has no range
    with pytest.raises(TrainingError) as error:
        Config(size=0)
    assert sentence(error) == "size must be a whole number of at least 1; got 0."
    with pytest.raises(TrainingError) as error:
        Config(share="x" * 200)
    assert sentence(error).startswith("share must be a number; got 'xxx") and len(str(error.value)) < 120


# The ranges -------------------------------------------------------------------------------------------------------

# Of each field: values that are just possible, and values that just are not.
RANGES = [
    (TrainConfig, "epochs", (1e-9, 0.5, 1e6), (0, -1, NAN, INF, None, "3", True)),
    (TrainConfig, "batch_size", (1,), (0, -1, 2.0, None, True)),
    (TrainConfig, "base_lr", (1e-9, 3000.0), (0, -1e-9, NAN, INF)),
    (TrainConfig, "betas", ((0, 0), (0.9, 0.999)), ((1, 0), (0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, (NAN, 0.9))),
    (TrainConfig, "weight_decay", (0, 1.0), (-1e-9, NAN, INF)),
    (TrainConfig, "final_weight_decay", (None, 0, 0.08), (-1e-9, INF, "none")),
    (TrainConfig, "warmup", (0, 1), (-0.01, 1.01, NAN)),
    (TrainConfig, "warmup_start", (0.001, 1), (0, 1.01)),
    (TrainConfig, "hold", (0, 0.99), (-0.01, 1)),
    (TrainConfig, "final_lr_ratio", (0, 1), (-0.01, 1.01)),
    (TrainConfig, "clip", (0.001,), (0, -1, INF, NAN)),
    (TrainConfig, "ema", (0, 0.9999), (-0.1, 1)),
    (TrainConfig, "accumulate", (1, 96), (0, -1, 1.5)),
    (TrainConfig, "precision", ("bf16", "fp16", "float32"), ("half", "", None)),
    (TrainConfig, "recompute", (True, False), (1, None)),
    (TrainConfig, "compile", (True, False), (0, "true")),
    (TrainConfig, "seed", (0, 2**32 - 1), (-1, 2**32, 1.0)),
    (TrainConfig, "log_every", (1, 500), (0, -50, 3)),  # 3 does not divide 500
    (TrainConfig, "checkpoint_every", (50, 1000), (0, 25, 75, -500)),
    (VARConfig, "depth", (1, 1000), (0, 1001, 1.0)),
    (VARConfig, "width", (16, 32), (0, -16, 24)),
    (VARConfig, "heads", (1, 1024), (0, -1, 3)),
    (VARConfig, "mlp_ratio", (0.01, 4), (0, -1, NAN)),
    (VARConfig, "num_classes", (1,), (0,)),
    (VARConfig, "codebook_size", (1,), (0,)),
    (VARConfig, "code_dim", (1,), (0,)),
    (VARConfig, "schedule", (VAR_512,), (None, (1, 2))),
    (VARConfig, "shared_adaln", (True,), (None,)),
    (VARConfig, "l2_norm_attention", (False,), (0,)),
    (VARConfig, "label_dropout", (0, 1), (-0.1, 1.1)),
    (VARConfig, "drop_path", (0, 0.99), (-0.1, 1)),
    (VARConfig, "gamma_init", (0, 1), (-0.1, INF)),
    (TextVARConfig, "caption_tokens", (1, 120), (0, 1.5)),
    (TextVARConfig, "caption_dim", (1,), (0,)),
    (TextVARConfig, "reads", ("prefix", "cross"), ("both", None)),
    (TextVARConfig, "dropout", (0, 0.5), (1, -0.1)),
    (GPTConfig, "depth", (1,), (0,)),
    (GPTConfig, "width", (48,), (0, 36)),
    (GPTConfig, "heads", (1, 192), (0, 5, 384)),
    (GPTConfig, "grid", ((1, 1), None), ((0, 1), (16,), 16)),
    (GPTConfig, "codebook_size", (1,), (0,)),
    (GPTConfig, "num_classes", (1,), (0,)),
    (GPTConfig, "caption_tokens", (0, 1), (-1,)),
    (GPTConfig, "style", ("gpt2",), ("bert",)),
    (GPTConfig, "hidden", (None, 1), (0,)),
    (GPTConfig, "norm_eps", (1e-9,), (0,)),
    (GPTConfig, "rope_base", (1,), (0.5, INF)),
    (GPTConfig, "dropout", (0, 0.99), (1, -0.1)),
    (GPTConfig, "label_dropout", (0, 1), (1.1,)),
    (NetConfig, "image_channels", (1,), (0,)),
    (NetConfig, "base_channels", (32,), (0, 33)),
    (NetConfig, "multipliers", ((1,), (1,) * 10), ((), (1,) * 11, (0, 1), 1, [1, 2])),
    (NetConfig, "res_blocks", (1,), (0,)),
    (NetConfig, "attention", (False,), (1,)),
    (NetConfig, "groups", (1, 160), (0, 7)),
    (NetConfig, "patch", (1, 256), (0, 257)),
    (TokenizerConfig, "image_size", (256, 241, (250, 256)), (None, 0, 128, (256,), (256, 256, 256), 256.0, True)),
    (TokenizerConfig, "codebook_size", (1,), (0,)),
    (TokenizerConfig, "code_dim", (1,), (0,)),
    (TokenizerConfig, "quantizer", ("multi-scale",), ("single", "double")),
    (TokenizerConfig, "z_channels", (None, 1), (0,)),
    (TokenizerConfig, "quant_conv_kernel", (1, 3, 31), (0, 2, 33)),
    (TokenizerConfig, "schedule", (ScaleSchedule((16,)),), (None, VAR_512)),
    (TokenizerConfig, "beta", (0,), (-0.1, INF)),
    (TokenizerConfig, "num_phi", (1,), (0,)),
    (TokenizerConfig, "phi_ratio", (0, 1), (-0.1, 1.1)),
    (DiscriminatorConfig, "base_channels", (16,), (0, 17)),
    (DiscriminatorConfig, "layers", (1, 16), (0, 17)),
    (DiscriminatorConfig, "norm", ("spectral",), ("batch",)),
    (DiscriminatorConfig, "groups", (1, 128), (0, 3)),
    (LossConfig, "l1", (0,), (-0.1, INF, None)),
    (LossConfig, "perceptual_size", (None, 16), (15,)),
    (LossConfig, "gan_start", (0, 1), (-0.1, 1.1)),
    (LossConfig, "gan_start_step", (None, 0), (-1, 0.5)),
    (LossConfig, "lecam_decay", (0, 0.99), (1,)),
    (LossConfig, "entropy_temperature", (0.001,), (0,)),
    (LossConfig, "discriminator", (DiscriminatorConfig(layers=1),), (None,)),
    (SamplingConfig, "cfg", (0, 1000), (-0.1, 1001, NAN, INF, None)),
    (SamplingConfig, "top_k", (0, 10**9), (-1, 2.5)),
    (SamplingConfig, "top_p", (0, 1), (-0.1, 1.1, NAN)),
    (RasterSamplingConfig, "cfg", (1, 1000), (0.9, 1001, NAN)),
    (RasterSamplingConfig, "temperature", (0.001, 100), (0, 1e-9, INF, NAN)),
    (RasterSamplingConfig, "top_k", (0,), (-1,)),
    (RasterSamplingConfig, "top_p", (0.01, 1), (0, 1.1)),
    (ClassifierConfig, "width", (1,), (0,)),
    (ClassifierConfig, "features", (1,), (0,)),
    (ClassifierConfig, "num_classes", (1,), (0,)),
    (ClassifierConfig, "image_size", (4,), (3,)),
]


@pytest.mark.parametrize(
    ("kind", "name", "possible", "impossible"), RANGES, ids=lambda x: getattr(x, "__name__", None)
)
def test_each_field_has_its_range(kind, name, possible, impossible):
    kinds = {TrainConfig: TrainingError, LossConfig: LossError}
    for value in possible:
        pair = (value, value) if kind is TokenizerConfig and name == "image_size" and type(value) is int else value
        assert getattr(kind(**{name: value}), name) == pair
    for value in impossible:
        with pytest.raises(kinds.get(kind, ValueError)) as error:
            kind(**{name: value})
        sentence(error)


def test_fields_that_depend_on_each_other():
    for wrong, words in (
        ({"checkpoint_every": 5, "log_every": 2}, "checkpoint_every must be a multiple of log_every (2); got 5."),
        ({"log_every": 0}, "log_every must be a whole number of at least 1; got 0."),
    ):
        with pytest.raises(TrainingError) as error:
            TrainConfig(**wrong)
        assert sentence(error) == words
    GPTConfig(caption_tokens=2, num_classes=0)  # conditioned on captions alone
    GPTConfig(caption_dim=0)  # and on classes alone
    with pytest.raises(ValueError, match="With 2 caption tokens, caption_dim must be at least 1; got 0"):
        GPTConfig(caption_tokens=2, caption_dim=0)
    with pytest.raises(ValueError, match="With 0 caption tokens, num_classes must be at least 1; got 0"):
        GPTConfig(num_classes=0)


DIGITS, RASTER = presets.get("digits"), presets.get("duel-llamagen")


@pytest.mark.parametrize(
    ("preset", "changes", "words"),
    [
        (DIGITS, {"views": 0}, "views must be a whole number in [1, 1000]; got 0."),
        (
            DIGITS,
            {"sampling": RASTER.sampling},
            "A VARConfig is sampled by a SamplingConfig; got a RasterSamplingConfig.",
        ),
        (
            RASTER,
            {"sampling": DIGITS.sampling},
            "A GPTConfig is sampled by a RasterSamplingConfig; got a SamplingConfig.",
        ),
        (
            DIGITS,
            {"tokenizer_loss": LossConfig(gan=0.1)},
            "3 layers needs images of at least 24 pixels a side; got 20.",
        ),
        (
            RASTER,
            {"model": GPTConfig(grid=None)},
            "Training knows the grid of a GPT: expected a model.grid; got none.",
        ),
        (DIGITS, {"mirror": True}, "mirror is for emoji-32 and emoji-64, which say what has a side; got digits."),
        (DIGITS, {"jitter": (95.0, 0.1)}, "jitter must be two numbers in [0, 90]; got (95.0, 0.1)."),
        (
            DIGITS,
            {"model": None},
            "model must be a VARConfig or a TextVARConfig or a GPTConfig or a MaskGITConfig or a DiTConfig",
        ),
    ],
)
def test_a_preset_holds_what_goes_together(preset, changes, words):
    if "tokenizer_loss" in changes:
        small = dataclasses.replace(DIGITS.tokenizer, image_size=20, schedule=ScaleSchedule((1, 3)))
        changes = {**changes, "tokenizer": small}
    with pytest.raises(ValueError) as error:
        dataclasses.replace(preset, **changes)
    assert words in sentence(error)


# Overrides from a command line ------------------------------------------------------------------------------------


def at(config, path: str):
    """The value of a dotted field."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def leaves(config, prefix: str = "") -> list[str]:
    """The dotted names of all single values of a configuration."""
    found = []
    for name in annotations(type(config)):
        value = getattr(config, name)
        table = dataclasses.is_dataclass(value) and not isinstance(value, ScaleSchedule)
        found += leaves(value, f"{prefix}{name}.") if table else [prefix + name]
    return found


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_train.epochs=2", 2.0),
        ("model_train.epochs=1e-2", 0.01),
        (" model_train.epochs = 2 ", 2.0),
        ("model_train.betas=0.9,0.99", (0.9, 0.99)),
        ("model_train.betas=0, 0.5", (0.0, 0.5)),
        ("model_train.final_weight_decay=none", None),
        ("model_train.final_weight_decay=0.1", 0.1),
        ("model_train.compile=true", True),
        ("model_train.compile=False", False),
        ("model_train.precision=float32", "float32"),
        ("model_train.seed=7", 7),
        ("model.schedule=1,2,4,8", ScaleSchedule((1, 2, 4, 8))),
        ("model.schedule=1x2,2x4", ScaleSchedule(((1, 2), (2, 4)))),
        ("model.schedule=1, 2, 3x4", ScaleSchedule((1, 2, (3, 4)))),
        ("tokenizer.image_size=32", (32, 32)),
        ("tokenizer.image_size=28,26", (28, 26)),
        ("tokenizer.z_channels=none", None),
        ("tokenizer.nets.multipliers=1,1,2", (1, 1, 2)),
        ("tokenizer_loss.gan_start_step=100", 100),
        ("tokenizer_loss.discriminator.layers=2", 2),
        ("sampling.cfg=2", 2.0),
        ("sampling.top_k=5", 5),
        ("views=3", 3),
        ("dataset=shards", "shards"),
        ("dataset=true", "true"),  # a text is a text
        ("name=a=b", "a=b"),
        ("name=--help", "--help"),
    ],
)
def test_a_text_becomes_what_its_field_is_annotated_with(setting, value):
    found = at(presets.get("digits", [setting]), setting.partition("=")[0].strip())
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model_train.final_weight_decay=abc", "final_weight_decay must be a number, or none; got 'abc'."),
        ("model_train.betas=0.9", "model_train.betas must be two numbers, such as 0.9,0.95; got '0.9'."),
        (
            "model_train.betas=0.9,0.95,1",
            "model_train.betas must be two numbers, such as 0.9,0.95; got '0.9,0.95,1'.",
        ),
        ("model_train.compile=1", "model_train.compile must be true or false, such as false; got '1'."),
        ("model_train.seed=none", "model_train.seed must be a whole number, such as 0; got 'none'."),
        ("model.depth=--help", "model.depth must be a whole number, such as 3; got '--help'."),
        ("model.depth=--tyro-print-completion,bash", "got '--tyro-print-completion,bash'."),
        ("model.depth=3\n4", r"model.depth must be a whole number, such as 3; got '3\n4'."),
        ("model.schedule=4,2", "model.schedule must be a ScaleSchedule, such as 1,2,3,4; got '4,2'."),
        ("model.schedule=1xx2", "model.schedule must be a ScaleSchedule, such as 1,2,3,4; got '1xx2'."),
        ("model.schedule=", "model.schedule must be a ScaleSchedule, such as 1,2,3,4; got ''."),
        (
            "tokenizer.image_size=28,28,28",
            "a whole number or two whole numbers, or none, such as 28,28; got '28,28,28'",
        ),
        ("tokenizer.nets.multipliers=", "tokenizer.nets.multipliers must be whole numbers, such as 1,2,4; got ''."),
        ("model_train.batch_size=0", "model_train: batch_size must be a whole number in [1, 1e9]; got 0."),
        ("model_train.log_every=0", "model_train: log_every must be a whole number of at least 1; got 0."),
        ("model_train.epochs=-1", "model_train: epochs must be a number in (0, 1e6]; got -1.0."),
        ("model_train.clip=-1", "model_train: clip must be a finite number above 0; got -1.0."),
        ("model.heads=0", "model: heads must be a whole number in [1, 1e6]; got 0."),
        ("tokenizer.nets.groups=7", "tokenizer.nets: GroupNorm with 7 groups needs channels divisible by it"),
        ("sampling.cfg=-1", "sampling: Sampling needs cfg >= 0"),
        ("views=0", "views must be a whole number in [1, 1000]; got 0."),
        ("model.depth", "A setting is written FIELD=VALUE, as in model_train.epochs=5; got 'model.depth'."),
        ("=3", "A setting is written FIELD=VALUE, as in model_train.epochs=5; got '=3'."),
        ("", "A setting is written FIELD=VALUE, as in model_train.epochs=5; got ''."),
        ("model=3", "model has fields, which are set one by one: expected one of depth, width, heads"),
        ("model.depth.x=3", "No field 'model.depth.x' to override: 3 is a single value."),
        ("model.schedule.grids=3", "No field 'model.schedule.grids' to override: 1,2,3,4 is a single value."),
        ("model.depht=3", "No field 'model.depht' to override: expected one of depth, width"),
        ("model.depht=3", "; did you mean 'depth'?"),
        ("model..depth=3", "No field 'model..depth' to override: expected one of depth"),
        ("sampling.temperature=1", "No field 'sampling.temperature' to override: expected one of cfg, top_k, top_p."),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(capfd, setting, words):
    with pytest.raises(presets.PresetError) as error:
        presets.get("digits", [setting])
    text = str(error.value)
    assert words in text and text[-1] in ".?" and "\n" not in text
    assert capfd.readouterr() == ("", "")


def test_a_field_is_set_once():
    with pytest.raises(presets.PresetError) as error:
        presets.get("digits", ["model.depth=3", "model.width=192", "model.depth=4"])
    assert sentence(error) == "model.depth is set twice: expected one value, got 3 and 4."


def test_fields_that_only_fit_together_are_changed_together():
    settings = ["tokenizer.image_size=64", "tokenizer.schedule=1,2,4,8", "model.schedule=1,2,4,8"]
    for order in (settings, settings[::-1]):
        preset = presets.get("digits", order)
        assert preset.tokenizer.latent_grid == (8, 8) == preset.model.schedule.final_grid
    with pytest.raises(presets.PresetError, match="tokenizer: The last grid of the schedule must be the latent grid"):
        presets.get("digits", settings[:1])
    preset = presets.get("digits", ["model_train.log_every=7", "model_train.checkpoint_every=21"])
    assert (preset.model_train.log_every, preset.model_train.checkpoint_every) == (7, 21)


def test_a_preset_that_is_not_changed_is_the_preset():
    for nothing in ((), [], {}, None):
        assert presets.get("digits", nothing) == presets.PRESETS["digits"]


def test_either_model_of_a_union_is_known_by_what_is_there():
    assert presets.get("duel-llamagen", ["model.style=gpt2", "model.grid=7,7"]).model.style == "gpt2"
    assert presets.get("duel-llamagen", ["sampling.temperature=0.5"]).sampling.temperature == 0.5
    assert "'model.style' to override: expected one of depth" in str(
        pytest.raises(presets.PresetError, presets.get, "digits", ["model.style=gpt2"]).value
    )


@pytest.mark.parametrize("name", ["digits", "folder-smoke", "duel-gpt2", "var-d36-s", "llamagen-b-384"])
def test_every_value_of_a_preset_can_be_written_and_read(name):
    preset = presets.get(name)
    paths = leaves(preset)
    assert len(paths) > 80
    settings = [f"{path}={as_text(at(preset, path))}" for path in paths]
    assert presets.get(name, settings) == preset


def test_a_run_needs_images_of_one_size():
    with pytest.raises(presets.PresetError) as error:
        presets.get("duel-llamagen", ["tokenizer.image_size=none"])
    assert sentence(error) == "A run reads images of one size: expected a tokenizer.image_size, got none."


def test_none_comes_before_any_other_meaning():
    assert parse("none", str | None) is None
    assert parse("nothing", str | None) == "nothing"


def test_any_configuration_can_be_parsed_for():
    changes = parse_settings(TrainConfig(), ["precision=float32", "accumulate=2"])
    assert changes == {"precision": "float32", "accumulate": 2}


# Overrides from Python --------------------------------------------------------------------------------------------


def test_values_from_python_are_taken_as_they_are():
    values = {"model_train.epochs": 2, "model.schedule": ScaleSchedule((1, 2)), "model_train.final_weight_decay": 0.1}
    preset = presets.get("digits", values)
    assert all(at(preset, path) == value for path, value in values.items())


def test_a_whole_table_can_be_given_and_changed_at_once():
    model = GPTConfig(depth=1, grid=(4, 4), num_classes=10, codebook_size=512)
    tokenizer = dataclasses.replace(RASTER.tokenizer, image_size=16)
    whole = {"model": model, "model.style": "gpt2", "sampling": RASTER.sampling, "tokenizer": tokenizer}
    preset = presets.get("digits", whole)
    assert preset.model == dataclasses.replace(model, style="gpt2")
    assert preset.tokenizer == tokenizer


EPOCHS = presets.get("digits").model_train.epochs


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model_train.epochs", "2", f"model_train.epochs must be a number, such as {EPOCHS:.4g}; got '2'."),
        ("model_train.batch_size", 2.0, "model_train.batch_size must be a whole number, such as 64; got 2.0."),
        ("model_train.batch_size", True, "model_train.batch_size must be a whole number, such as 64; got True."),
        (
            "model_train.betas",
            [0.9, 0.95],
            "model_train.betas must be two numbers, such as 0.9,0.95; got [0.9, 0.95].",
        ),
        ("model_train.clip", None, "model_train.clip must be a number, such as 2; got None."),
        ("model.schedule", (1, 2), "model.schedule must be a ScaleSchedule, such as 1,2,3,4; got (1, 2)."),
        ("model", 3, "model has fields, which are set one by one: expected one of depth"),
        ("model.depth", torch.ones(9, 9), "model.depth must be a whole number, such as 3; got tensor("),
        ("model.depth", -1, "model: depth must be a whole number in [1, 1000]; got -1."),
        ("nothing", 3, "No field 'nothing' to override: expected one of name, dataset"),
        (
            "model.schedule.grids",
            ((1, 1),),
            "No field 'model.schedule.grids' to override: 1,2,3,4 is a single value.",
        ),
    ],
)
def test_values_from_python_are_checked_alike(path, value, words):
    with pytest.raises(presets.PresetError) as error:
        presets.get("digits", {path: value})
    assert words in str(error.value)


def test_every_preset_is_one():
    assert all(isinstance(preset, Preset) and preset.name == name for name, preset in presets.PRESETS.items())
