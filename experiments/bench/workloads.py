"""What is timed: sampling, encoding, decoding and training, by minivar, by the reference, and by the old package.

Digits, emoji and raster order run on the shipped checkpoints; VAR's published shapes have random weights, since the
numbers in a matrix do not change how long its product takes.
"""

import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from experiments.bench.old import OldPackage
from experiments.bench.reference import ReferenceGPT, ReferenceTokenizer, ReferenceTraining, ReferenceVAR
from minivar import checkpoints, data, models, presets, sampling, training
from minivar.distributed import Ranks
from minivar.models import GPTConfig, VARConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig
from minivar.training import loop
from minivar.training.schedules import learning_rate, weight_decay

MINIVAR, REFERENCE, OLD = "minivar", "reference", "old"
Outputs = dict[str, Tensor]


class Workload(NamedTuple):
    """One line of the table."""

    name: str
    about: str
    kind: str
    family: str  # whose weights and images: digits, emoji, d16, duel-llamagen
    count: int  # images of a call
    rounds: int = 15
    full: bool = False  # only where all is asked for

    def images(self, quick: bool) -> int:
        """Images of a call; in miniature two at most."""
        return min(self.count, 2) if quick else self.count


class Built(NamedTuple):
    """The sides of a workload, ready to be called."""

    functions: dict[str, Callable[[], Outputs]]
    changes: tuple[nn.Parameter, ...] = ()  # what a call leaves other than it found it


def workloads() -> list[Workload]:
    """All of them, in the order of the table."""
    found = []
    for family, rounds in (("digits", (15, 15, 15)), ("emoji", (15, 15, 15)), ("d16", (7, 3, 3))):
        for count, number in zip((1, 8, 64), rounds):
            about = f"guided images of {family}, {count} at a time"
            full = (family, count) == ("d16", 64)
            found.append(Workload(f"sample-{family}-{count}", about, "sample", family, count, number, full))
    for family, count, name in (("digits", 64, "digits"), ("emoji", 64, "emoji"), ("d16", 2, "256")):
        size = "256-pixel images" if name == "256" else f"{name}"
        found.append(Workload(f"encode-{name}", f"{count} {size} to tokens", "encode", family, count))
        found.append(Workload(f"decode-{name}", f"the tokens of {count} {size} to pixels", "decode", family, count))
    for family, count, rounds in (("digits", 64, 15), ("d16", 2, 5)):
        for source in ("pixels", "tokens"):
            about = f"a training step of {family} on {count} images, from {source}"
            found.append(Workload(f"train-{family}-{source}", about, f"train-{source}", family, count, rounds))
    for kind, how in (("raster-cached", "with"), ("raster-uncached", "without")):
        about = f"guided digits in raster order, 8 at a time, {how} a cache"
        found.append(Workload(kind, about, kind, "duel-llamagen", 8))
    return found


def build(workload: Workload, device: torch.device, quick: bool = False, old: OldPackage | None = None) -> Built:
    """The sides of a workload on ``device``, the old package's where it is given; ``quick``: in miniature."""
    count = workload.images(quick)
    with_model = workload.kind not in ("encode", "decode")
    material = load_material(workload.family, device, quick, count, with_model)
    if workload.kind in ("sample", "raster-cached", "raster-uncached"):
        options = {} if workload.kind == "sample" else {"use_cache": workload.kind == "raster-cached"}
        return build_sampling(material, count, old, **options)
    if workload.kind == "encode":
        return build_encoding(material, old)
    if workload.kind == "decode":
        return build_decoding(material, old)
    return build_training(material, old, from_tokens=workload.kind == "train-tokens")


def one_side(workload: Workload, side: str, device: torch.device, quick: bool) -> Callable[[], Outputs]:
    """One of the sides alone; for a process of its own."""
    return build(workload, device, quick).functions[side]


# The sides ----------------------------------------------------------------------------------------------------------


class Material(NamedTuple):
    """What a workload works with, on its device."""

    tokenizer: VQVAE
    model: nn.Module | None
    images: data.ArraySet
    settings: dict[str, float]  # of sampling
    train: training.TrainConfig
    device: torch.device


def build_sampling(material: Material, count: int, old: OldPackage | None, **options) -> Built:
    """From labels to images, either order."""
    model, tokenizer, device = material.model, material.tokenizer, material.device
    settings = {**material.settings, **options}
    labels_B = torch.arange(count, device=device) % model.config.num_classes
    plain = (ReferenceVAR if isinstance(model, models.VAR) else ReferenceGPT)(model)
    plain_tokenizer = ReferenceTokenizer(tokenizer)

    def seeded() -> torch.Generator:
        return torch.Generator(device).manual_seed(0)

    def drawn(images: Tensor, tokens: Tensor) -> Outputs:
        return {"tokens": tokens, "images": images}

    ours, our_tokenizer = sampling.packed(model), sampling.packed(tokenizer)
    functions = {
        MINIVAR: lambda: drawn(*sampling.generate(ours, our_tokenizer, labels_B, seeded(), **settings)),
        REFERENCE: lambda: drawn(*plain.sample(plain_tokenizer, labels_B, generator=seeded(), **settings)),
    }
    if old:
        old_model, old_tokenizer = old.model(model), old.model(tokenizer)
        functions[OLD] = lambda: drawn(*old.sampler.draw(old_model, old_tokenizer, labels_B, seeded(), **settings))
    return Built(functions)


def build_encoding(material: Material, old: OldPackage | None) -> Built:
    """From images to tokens."""
    images = material.images.batch(slice(None))[0].to(material.device)
    sides = tokenizers(material, old)
    return Built({name: lambda t=t: {"tokens": torch.cat(t.encode(images), dim=1)} for name, t in sides.items()})


def build_decoding(material: Material, old: OldPackage | None) -> Built:
    """From tokens to images."""
    sides = tokenizers(material, old)
    config = material.tokenizer.config
    draw = torch.Generator().manual_seed(0)
    tokens = [
        torch.randint(config.codebook_size, (len(material.images), n), generator=draw).to(material.device)
        for n in config.schedule.counts
    ]
    return Built({name: lambda t=t: {"images": t.decode(tokens)} for name, t in sides.items()})


def tokenizers(material: Material, old: OldPackage | None) -> dict:
    """The tokenizer of each side."""
    sides = {MINIVAR: sampling.packed(material.tokenizer), REFERENCE: ReferenceTokenizer(material.tokenizer)}
    return {**sides, OLD: old.model(material.tokenizer)} if old else sides


class Encoded(data.ImageSet):
    """Images that training encodes at every step, as it does those of folders, where it keeps tokens of an array."""

    def __init__(self, images: data.ArraySet) -> None:
        self.images, self.labels, self.class_names = images, images.labels, images.class_names
        self.image_shape = images.image_shape

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> int:
        """As of the array."""
        return self.images.fingerprint

    def pixels(self, index: Tensor | slice, view: Tensor | int) -> tuple[Tensor, Tensor]:
        """As of the array."""
        return self.images.pixels(index, view)

    def batch(self, index: Tensor | slice, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """As of the array."""
        return self.images.batch(index, epoch)


def build_training(material: Material, old: OldPackage | None, from_tokens: bool) -> Built:
    """A step of the transformer, always the first one of a run: the loop's own, and what the others make of it."""
    model, tokenizer, device, images = material.model, material.tokenizer, material.device, material.images
    source = images if from_tokens else Encoded(images)
    task = training.VARTask(model, tokenizer, source, device)
    with tempfile.TemporaryDirectory() as folder:  # the run looks whether it could write there, and never does
        run = loop.Run(task, material.train, Path(folder), {}, Ranks(device))
    model.train()
    order_B = run.batches.whole(0)
    given, labels_B = task.encoded.batch(order_B, 0) if from_tokens else images.batch(order_B)
    given, labels_B = given.to(device), labels_B.to(device)
    rate, decay = learning_rate(0, run.steps, run.config), weight_decay(0, run.steps, run.config)
    recipe = {"lr": rate, "betas": run.config.betas, "weight_decay": decay, "clip": run.config.clip}
    plain = ReferenceTraining(ReferenceVAR(model), ReferenceTokenizer(tokenizer), **recipe)

    def step() -> Outputs:
        stats = run.check_finite(0, run.forward_and_backward(0))
        run.update(0)
        return learned(stats["loss"], stats["grad_norm"])

    def learned(loss: Tensor, norm: Tensor) -> Outputs:
        return {"loss": loss, "gradient norm": norm}

    plain_step = plain.step_from_tokens if from_tokens else plain.step_from_pixels
    functions = {MINIVAR: step, REFERENCE: lambda: learned(*plain_step(given, labels_B))}
    if old:
        old_images = old.data.ArraySet(images.images, images.labels, images.class_names) if from_tokens else source
        old_task = old.tasks.VARTask(old.model(model), old.model(tokenizer), old_images, device)
        old_step = old.training_step(old_task, recipe, order_B, device)
        functions[OLD] = lambda: learned(*old_step())
    return Built(functions, tuple(model.parameters()))


# What they work with ------------------------------------------------------------------------------------------------


def load_material(family: str, device: torch.device, quick: bool, count: int, with_model: bool) -> Material:
    """Tokenizer, transformer (unless told) and ``count`` images of a family."""
    preset = presets.get({"d16": "var-d16", "digits": "digits-long"}.get(family, family))
    settings = dataclasses.asdict(preset.sampling) | ({"cfg": 1.5} if family == "duel-llamagen" else {})
    if quick or family == "d16":
        configs = miniature(family) if quick else (preset.tokenizer, preset.model)
        tokenizer = randomised(VQVAE, configs[0])
        model = (
            randomised(models.GPT if family == "duel-llamagen" else models.VAR, configs[1]) if with_model else None
        )
        images = noise(count, configs[0], configs[1].num_classes)
    else:
        tokenizer, model, _ = checkpoints.load_pair(data.DATA_ROOT / "checkpoints" / family)
        heldout = data.load("emoji" if family == "emoji" else "digits", "heldout")
        images = data.ArraySet(heldout.images[:count], heldout.labels[:count], heldout.class_names)
    alone = {"batch_size": count, "accumulate": 1, "images_at_a_time": None, "epochs": 1000, "precision": "float32"}
    train = dataclasses.replace(preset.model_train, **alone)
    return Material(tokenizer.to(device), model.to(device) if with_model else None, images, settings, train, device)


@torch.no_grad()
def randomised(kind: type, config, seed: int = 0) -> nn.Module:
    """A model whose weights all matter, in eval mode.

    A freshly initialised transformer is nearly blind, its gates and its head being close to zero: a comparison would
    not see what the blocks do. Weights are drawn in the order of their names: matrices keep the size of what passes.
    """
    with torch.device("meta"):
        model = kind(config)
    model, draw = model.to_empty(device="cpu"), torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        std = 0.1
        if parameter.dim() > 1 and name.endswith("weight"):
            std = parameter[0].numel() ** -0.5
        if "codebook" in name or "class_embed" in name:
            std = 1.0
        parameter.normal_(0, std, generator=draw)
        if parameter.dim() == 1 and "norm" in name and name.endswith("weight"):
            parameter.add_(1)
        if "log_scale" in name:
            parameter.add_(math.log(4))
    for buffer in model.buffers():
        buffer.zero_()
    return model.eval()


def miniature(family: str) -> tuple[TokenizerConfig, VARConfig | GPTConfig]:
    """Shapes that take milliseconds, of the family's kind."""
    schedule = ScaleSchedule((1, 2, 4))
    nets = NetConfig(1, base_channels=8, multipliers=(1, 2, 2), res_blocks=1, attention=family == "d16", groups=4)
    shape = {"image_size": 16, "nets": nets, "codebook_size": 16, "code_dim": 4}
    model = {"depth": 2, "width": 32, "heads": 2, "num_classes": 5, "codebook_size": 16}
    if family == "duel-llamagen":
        single = TokenizerConfig(**shape, quantizer="single", schedule=None)
        return single, GPTConfig(**model, grid=(4, 4), hidden=64, dropout=0.0)
    return TokenizerConfig(**shape, schedule=schedule), VARConfig(**model, code_dim=4, schedule=schedule)


def noise(count: int, config: TokenizerConfig, classes: int) -> data.ArraySet:
    """Random images of a tokenizer's size, in classes."""
    random = np.random.RandomState(0)
    pixels = random.randint(0, 255, (count, config.nets.image_channels, *config.image_size), dtype=np.uint8)
    return data.ArraySet(pixels, random.randint(0, classes, count), [str(i) for i in range(classes)])
