"""Whatever is typed either works or is answered by one sentence and exit code 2: hypothesis does the typing.

The examples are the same in every run. Longer searches: raise ``EXAMPLES``, and set ``derandomize`` to False.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import typing

import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from test_config import RANGES, leaves

from minivar import checkpoints, cli, data, models, presets, training
from minivar.analysis import complexity
from minivar.analysis.summary import describe
from minivar.checks import annotations, options
from minivar.cli.sample import parse_classes
from minivar.files import config_from_dict
from minivar.models import GPT, VAR, GPTConfig
from minivar.presets.overrides import as_text, field_of
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig

EXAMPLES = 40
CONFIGS = sorted({kind for kind, *_ in RANGES}, key=lambda kind: kind.__name__)
NETS = NetConfig(
    image_channels=1, base_channels=8, multipliers=(1, 2, 2), res_blocks=1, attention=False, groups=4, patch=2
)


def typed(examples: float = 1):
    """Settings for every test here; ``examples`` times as many as usual."""
    unchecked = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    how = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": unchecked}
    return settings(max_examples=round(EXAMPLES * examples), **how)


def mostly(usual: st.SearchStrategy, odd: st.SearchStrategy) -> st.SearchStrategy:
    """Three times in four the usual."""
    return st.integers(0, 3).flatmap(lambda number: odd if number == 0 else usual)


def one_sentence(text: str) -> None:
    assert text and "\n" not in text and "Traceback" not in text, text


# What people, scripts and cats type -------------------------------------------------------------------------------

ODD = (
    "none None true nan inf -inf 1e400 -1 0 1 2 1.5 0x10 1_0 \u00b2 --help -x 1,2,4 1x2,2x4 4,2 1, , x 0.9,0.95 28,28"
)
WORDS = st.one_of(
    st.sampled_from([*ODD.split(), "", "\n", "3 4", "a=b", "9" * 40]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
)
COUNTING = st.one_of(st.integers(1, 64), st.integers(1, 4), st.integers(-2, 2000), st.integers())
REAL = st.one_of(st.floats(0, 1), st.floats(0.01, 0.99), st.floats(-1, 10), st.floats())
SCHEDULES = st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True).map(
    lambda s: ScaleSchedule(tuple(sorted(s)))
)
CHOICES = {"precision": ("bf16", "float32"), "style": ("llama", "gpt2"), "norm": ("group", "spectral")}
CHOICES |= {"quantizer": ("multi-scale", "single"), "dataset": ("digits", "folder")}


def values(hint, name: str = "") -> st.SearchStrategy:
    """Values of an annotated type, mostly of the size that a field of this name may have."""
    if hint in (int, float, bool, type(None)):
        return {int: COUNTING, float: REAL, bool: st.booleans(), type(None): st.none()}[hint]
    if hint is str:
        return st.sampled_from(CHOICES.get(name, ("x",)))
    if hint is ScaleSchedule:
        return SCHEDULES
    if typing.get_origin(hint) is tuple:
        first, *others = typing.get_args(hint)
        sizes = {"min_size": 1, "max_size": 4} if others == [...] else dict.fromkeys(("min_size", "max_size"), 2)
        return st.lists(values(first), **sizes).map(tuple)
    if len(options(hint)) > 1:
        return st.one_of([values(kind, name) for kind in options(hint) if not dataclasses.is_dataclass(kind)])
    return st.builds(hint)  # a table of its own, with its defaults


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([1, 2]), SCHEDULES
)


# Configurations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
@typed(2)
@given(st.data())
def test_a_configuration_is_possible_or_refused_in_one_sentence(kind, data):
    hints = annotations(kind)
    names = data.draw(st.lists(st.sampled_from(sorted(hints)), max_size=3, unique=True))
    changes = {name: data.draw(mostly(values(hints[name], name), ANYTHING)) for name in names}
    try:
        config = kind(**changes)
    except ValueError as error:
        one_sentence(str(error))
        return
    event("possible")
    assert dataclasses.replace(config) == config and hash(config) == hash(dataclasses.replace(config))
    for name in changes:  # nothing that is no number, anywhere
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            assert not isinstance(number, float) or math.isfinite(number)
    assert config_from_dict(kind, json.loads(json.dumps(dataclasses.asdict(config)))) == config


@typed(3)
@given(
    st.one_of(
        SCHEDULES.map(lambda schedule: schedule.grids),
        st.lists(st.integers(1, 9), max_size=3),
        st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3).map(sorted),
        st.lists(st.integers(-1, 5000) | ANYTHING, max_size=3),
        ANYTHING,
    )
)
def test_a_schedule_grows_or_is_refused(grids):
    try:
        schedule = ScaleSchedule(grids)
    except ValueError as error:
        one_sentence(str(error))
        return
    event("possible")
    assert all(side > 0 for grid in schedule.grids for side in grid)
    assert list(schedule.counts) == sorted(set(schedule.counts)) and schedule.bounds[-1][1] == schedule.num_tokens
    assert ScaleSchedule(schedule.grids) == schedule


@typed(3)
@given(st.text("0123456789-, x", max_size=6) | WORDS, st.integers(1, 1000))
def test_classes_exist_or_are_refused(text, num_classes):
    try:
        classes = parse_classes(text, num_classes)
    except ValueError as error:
        one_sentence(str(error))
        return
    event("possible")
    assert classes and set(classes) <= set(range(num_classes))


# --set, and what comes of it --------------------------------------------------------------------------------------


@st.composite
def changed(draw, names=tuple(presets.PRESETS)):
    """A preset's name, and one to three settings."""
    name = draw(st.sampled_from(names))
    preset = presets.PRESETS[name]
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        field = draw(
            mostly(st.sampled_from(leaves(preset)), st.sampled_from(["model", "", "a.", "mdl.depth", "a b"]))
        )
        known = field in leaves(preset)
        hint = field_of(preset, field)[0] if known else str
        text = draw(mostly(values(hint, field.split(".")[-1]).map(as_text), WORDS))
        texts.append(f"{field}={text}")
    return name, texts


def check_outcome(name: str, texts: list[str]) -> None:
    """A preset that is accepted can be built and described; every other one is refused by a sentence."""
    try:
        preset = presets.get(name, texts)
        checkpoints.check_pair(preset.tokenizer, preset.model)
    except ValueError as error:
        one_sentence(str(error))
        return
    event("accepted")
    if isinstance(preset.model, models.DiTConfig):  # which draws no tokens
        return
    layers = (preset.model.depth, preset.tokenizer.nets.res_blocks, preset.tokenizer.num_phi, len(preset.model.grids))
    if max(layers) <= 6:  # on the meta device numbers cost nothing, but layers do
        with torch.device("meta"):
            found = describe(VQVAE(preset.tokenizer).eval(), models.build(preset.model).eval())
        event("described")
        assert found["tokens"] > 0


@typed(2)
@given(changed())
def test_settings_make_a_preset_or_are_refused(setting):
    check_outcome(*setting)


@st.composite
def shapes(draw, raster: bool):
    """Settings of a tokenizer and a transformer that belong together, and, now and then, one that does not."""
    some = lambda *numbers: draw(st.sampled_from(numbers))  # noqa: E731
    groups, levels, patch = some(1, 4), some(1, 2, 3), some(1, 2, 4)
    grid, stride, heads = (some(1, 2, 3, 7), some(1, 2, 5)), patch * 2 ** (levels - 1), some(1, 3)
    sizes = [side * stride - draw(st.integers(0, stride - 1)) for side in grid]
    shape = {
        "tokenizer.nets.groups": groups,
        "tokenizer.nets.base_channels": groups * some(2, 3),  # a group of one value has no variance
        "tokenizer.nets.multipliers": tuple(some(1, 2) for _ in range(levels)),
        "tokenizer.nets.patch": patch,
        "tokenizer.nets.attention": some(True, False),
        "tokenizer.nets.image_channels": some(1, 3),
        "tokenizer.image_size": tuple(sizes),
        "tokenizer.quant_conv_kernel": some(1, 3, 5),
        "tokenizer.z_channels": some(None, 5),
        "model.depth": some(1, 2),
        "model.heads": heads,
        "model.width": heads * some(4, 8),
        "model.num_classes": some(1, 7),
    }
    shape |= dict.fromkeys(("tokenizer.codebook_size", "model.codebook_size"), some(1, 300))
    if raster:
        shape |= {"model.grid": grid, "model.style": some("llama", "gpt2"), "model.hidden": some(None, 7)}
    else:
        scales = [] if grid == (1, 1) else some([], [(1, 1)])
        shape |= dict.fromkeys(("tokenizer.code_dim", "model.code_dim"), some(1, 6))
        shape |= dict.fromkeys(("tokenizer.schedule", "model.schedule"), ScaleSchedule((*scales, grid)))
        shape |= {"tokenizer.num_phi": some(1, 4), "model.shared_adaln": some(True, False)}
    texts = {field: as_text(value) for field, value in shape.items()}
    if draw(st.integers(0, 3)) == 0:
        texts[draw(st.sampled_from(sorted(texts)))] = draw(WORDS)
    return [f"{field}={text}" for field, text in texts.items()]


@pytest.mark.parametrize("name", ["digits-smoke", "duel-llamagen"])
@typed(0.4)
@given(st.data())
def test_shapes_that_are_accepted_can_be_built(name, data):
    check_outcome(name, data.draw(shapes(raster=name == "duel-llamagen")))


# Commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder to work in, with checkpoints of both kinds; 40 digits; no training."""
    folder = tmp_path_factory.mktemp("here")
    config = tokenizer_config(image_size=28, nets=NETS)
    for kind in ("var", "gpt"):
        single = {"quantizer": "single", "schedule": None} if kind == "gpt" else {}
        checkpoints.save(wake(VQVAE(dataclasses.replace(config, **single))), folder / kind / "tokenizer.safetensors")
    checkpoints.save(wake(VAR(var_config(num_classes=10))), folder / "var" / "var.safetensors", preset="digits")
    shape = {"grid": (4, 4), "codebook_size": 16, "num_classes": 10, "hidden": 16}
    checkpoints.save(wake(GPT(GPTConfig(1, 16, 2, **shape))), folder / "gpt" / "gpt.safetensors")
    (folder / "file").write_text("here first")
    (folder / "folder.png").mkdir()
    whole = data.load_digits("train")
    few = data.ArraySet(whole.images[:40], whole.labels[:40], whole.class_names)

    def cheap(sides, timing):
        complexity.fit_exponent(sides, [complexity.doubling(n).num_tokens for n in sides])
        return {}

    digits = presets.get("digits")
    tiny = dataclasses.replace(digits, model=dataclasses.replace(digits.model, depth=1, width=8, heads=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(presets.PRESETS, "tiny", tiny)
        patch.setattr("minivar.data.loading.load_digits", lambda split: few)
        patch.setattr(training, "train_tokenizer", lambda *args, **options: None)
        patch.setattr(training, "train_model", lambda *args, **options: None)
        patch.setattr(complexity, "report", cheap)
        patch.setattr(complexity, "as_text", str)
        yield folder


def check_answer(argv: list[str]) -> None:
    """Exit code 0 and nothing on standard error but a bar; or 2 and one sentence, ours or argparse's."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(argv)
        except SystemExit as stopped:  # argparse says what it expected
            code = stopped.code
            assert code == 2 and f"minivar {argv[0]}: error: " in err.getvalue(), argv
            return
    event(f"exit code {code}")  # for --hypothesis-show-statistics
    lines = err.getvalue().splitlines()
    assert code in (0, 2) and "Traceback" not in err.getvalue(), argv
    if code == 0:
        assert not any(line.startswith("minivar:") for line in lines) and out.getvalue(), argv
    else:
        said = [line for line in lines if line.startswith("minivar: ")]
        assert len(said) == 1 and lines[-1] == said[0] and len(said[0]) > 20, (argv, lines)
        assert not out.getvalue(), argv


COUNTS = st.sampled_from([*"1234", "-1", "0", "x", "1.5", "", "1000001", "9" * 30])
NUMBERS = st.sampled_from(
    ["0.5", "0.9", "1", "1.0", "-1", "0", "2", "nan", "inf", "-inf", "1e-30", "1e30", "x", "", "9" * 40]
)
PATHS = st.sampled_from(
    [
        "grid.png",
        "new/grid.png",
        "new.PNG",
        "a.jpg",
        "file/grid.png",
        "file",
        "folder.png",
        ".",
        "",
        "grid.xyz",
        "a" * 300,
    ]
)
FOLDERS = st.sampled_from(["var", "gpt", "var", "gpt", "file", "nowhere", "", ".", "new"])
DEVICES = st.sampled_from(["cpu", "cpu", "cpu", "cuda:77", "gpu", "meta", ""])
PLACES = itertools.count()

OPTIONS = {
    "sample": {
        "checkpoint": st.sampled_from(["var", "gpt"]) | FOLDERS,
        "classes": st.sampled_from(["0-9", "3", "1,4-6", "0-12", "5-2", "", "x", "²", "-1"]),
        "count": COUNTS,
        "seed": st.sampled_from(["0", "-1", str(2**64 - 1), str(2**64), "x"]),
        "cfg": NUMBERS,
        "top-k": COUNTS,
        "top-p": NUMBERS,
        "temperature": NUMBERS,
        "device": DEVICES,
        "precision": st.sampled_from(["float32", "bf16", "half"]),
        "batch-size": COUNTS,
        "guided-scales": COUNTS,
        "scales": COUNTS,
        "kept-tokens": NUMBERS,
        "refined-from": COUNTS,
        "refiner": FOLDERS,
        "sub-steps": COUNTS,
        "out": PATHS,
        "npz": PATHS.filter(lambda path: path != "file"),  # which it would replace, as it is told to
    },
    "reconstruct": {
        "checkpoint": st.sampled_from(["var", "gpt"]) | FOLDERS,
        "dataset": st.sampled_from(["digits", "mnist", "folder", ""]),
        "data": FOLDERS,
        "count": COUNTS,
        "out": PATHS,
        "device": DEVICES,
        "precision": st.sampled_from(["float32", "bf16", "half"]),
        "batch-size": COUNTS,
    },
    "info": {"preset": st.sampled_from(["digits", "duel-gpt2", "x", ""]), "checkpoint": FOLDERS},
    "plan": {
        "preset": st.sampled_from(["tiny", "tiny", "x"]),
        "gpus": COUNTS,
        "gpu": st.sampled_from(["a100", "tpu"]),
        "strategy": st.sampled_from(["ddp", "fsdp", "x"]),
        "utilisation": NUMBERS,
        "accumulate": COUNTS,
        "slurm": st.none(),
        "recompute": st.none(),
    },
    "complexity": {"sides": st.sampled_from(["4,8,16", "1,2,4", "128,2,8", "256,2,8"]) | WORDS, "json": st.none()},
    "report": {},
    "tokenize": {
        "checkpoint": st.sampled_from(["var", "gpt"]) | FOLDERS,
        "preset": st.sampled_from(["digits", "digits-smoke", "x"]),
        "dataset": st.sampled_from(["digits", "folder", "x"]),
        "split": st.sampled_from(["train", "heldout", "x"]),
        "crop": st.sampled_from(["center", "x"]),
        "views": COUNTS,
        "batch-size": COUNTS,
        "shard-size": COUNTS,
        "device": DEVICES,
        "out": mostly(st.builds(lambda: f"tokens{next(PLACES)}"), st.sampled_from(["file", "file/new", "tokens"])),
    },
    "train": {
        "out": st.sampled_from(["file", "run", ""]),
        "data": FOLDERS,
        "tokens": FOLDERS,
        "tokenizer": FOLDERS,
        "stage": st.sampled_from(["all", "tokenizer", "x"]),
        "device": DEVICES,
        "strategy": st.sampled_from(["ddp", "fsdp", "x"]),
    },
}


@pytest.mark.parametrize("command", OPTIONS)
@typed()
@given(st.data())
def test_a_command_works_or_says_why_not(here, command, data):
    possible = OPTIONS[command]
    names = data.draw(st.lists(st.sampled_from(sorted(possible)), max_size=3, unique=True)) if possible else []
    drawn = {name: data.draw(possible[name]) for name in names}
    usual = {"sample": {"checkpoint": "var", "count": "3"}, "plan": {"preset": "tiny"}}
    usual |= {"reconstruct": usual["sample"], "tokenize": {"checkpoint": "var", "out": f"tokens{next(PLACES)}"}}
    chosen = usual.get(command, {}) | drawn
    words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in chosen.items()]
    if command == "report":
        words = [data.draw(FOLDERS | st.just("--"))]
    if command == "train":
        name, texts = data.draw(changed(("digits", "duel-llamagen", "folder-smoke")))
        words += [f"--preset={name}", *(f"--set={text}" for text in texts if data.draw(st.booleans()))]
    check_answer([command, *words])
    assert (here / "file").read_text() == "here first"
