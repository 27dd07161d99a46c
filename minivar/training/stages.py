"""The two trainings of a preset: first the tokenizer, then the transformer on its tokens."""

import dataclasses
from pathlib import Path

import torch

from minivar import checkpoints
from minivar.data import Dataset, ImageSet
from minivar.distributed import Ranks
from minivar.files import State, weights_fingerprint
from minivar.models import (
    GPT,
    VAR,
    DiT,
    DiTConfig,
    Generator,
    MaskGIT,
    TextEncoder,
    TextVAR,
    build,
    caption_shape,
)
from minivar.precision import convolution_order
from minivar.tokenizer import VQVAE, Pixels, TokenCache
from minivar.training.batches import total_steps
from minivar.training.before import check_config
from minivar.training.config import Preset
from minivar.training.loop import fit
from minivar.training.rivals import DiTTask, MaskGITTask
from minivar.training.tasks import GPTTask, TextVARTask, TokenizerTask, VARTask

TASKS = {VAR: VARTask, TextVAR: TextVARTask, GPT: GPTTask, MaskGIT: MaskGITTask, DiT: DiTTask}


def draws_pixels(preset: Preset) -> bool:
    """Whether the generator of a preset needs no tokenizer."""
    return isinstance(preset.model, DiTConfig) and not preset.model.latents


def train_tokenizer(
    preset: Preset,
    data: Dataset,
    out: Path,
    device="cpu",
    progress: bool = True,
    ranks: Ranks | None = None,
    backbone_weights: Path | None = None,
    validation: ImageSet | None = None,
    workers: int | None = None,
) -> VQVAE | Pixels:
    """Train (or resume, or just load) the tokenizer of a preset on ``data``, into ``out``.

    For a generator that draws pixels there is nothing to train, and ``Pixels`` is returned.

    ``validation``: held-out images, whose loss is logged (``presets.validation_set``). ``backbone_weights``: a file
    with the weights of VGG-16, for presets whose loss has a perceptual term. ``workers`` as in ``fit``.
    """
    if draws_pixels(preset):
        return Pixels()
    torch.manual_seed(preset.tokenizer_train.seed)
    device = ranks.device if ranks else device
    model = VQVAE(preset.tokenizer).to(device, memory_format=convolution_order(device))
    steps = total_steps(len(data), preset.tokenizer_train)
    more = {"backbone_weights": backbone_weights, "validation": validation, "revive_below": preset.revive_below}
    task = TokenizerTask(model, data, preset.tokenizer_loss, steps, **more)
    fit(task, preset.tokenizer_train, out, {"preset": preset.name}, progress, ranks, workers)
    return model


def train_model(
    preset: Preset,
    tokenizer: VQVAE | Pixels,
    data: Dataset,
    out: Path,
    device="cpu",
    progress: bool = True,
    ranks: Ranks | None = None,
    validation: Dataset | None = None,
    start: State | None = None,
    workers: int | None = None,
    text: TextEncoder | None = None,
) -> Generator:
    """Train (or resume, or just load) the transformer of a preset on what the tokenizer makes of ``data``.

    Into ``out``. ``validation``: held-out images or a cache of their tokens, whose loss is logged. ``start``: weights
    to begin with (``starting_weights``), in place of random ones. ``workers`` as in ``fit``. ``text``: the encoder of
    a model of captions, which ``data`` and ``validation`` must have; a copy of it goes into ``out``.
    """
    device = ranks.device if ranks else device
    torch.manual_seed(preset.model_train.seed)
    model = build(preset.model)
    if start is not None:
        model.load_state_dict(start)
    beginning = {} if start is None else {"start": weights_fingerprint(model)}
    model = model.to(device)
    more = {}
    if caption_shape(preset.model):
        keep_text(text, out, ranks or Ranks())
        more, beginning = {"text": text}, {**beginning, "text": weights_fingerprint(text)}
    task = TASKS[type(model)](model, tokenizer, data, device, validation, **more)
    header = {"preset": preset.name, "dataset": preset.dataset, "sampling": dataclasses.asdict(preset.sampling)}
    header |= {"text": beginning["text"]} if more else {}
    task.sampling, task.settings = header["sampling"], beginning
    fit(task, preset.model_train, out, header, progress, ranks, workers)
    return model


def check_run(
    preset: Preset,
    images: Dataset,
    stage: str,
    ranks: Ranks,
    validation: Dataset | None = None,
    text: TextEncoder | None = None,
) -> None:
    """Raise ``ValueError`` before hours of training for what would only fail after them."""
    if stage == "tokenizer":
        if draws_pixels(preset):
            raise ValueError(f"{preset.name} draws pixels and has no tokenizer to train: expected --stage all.")
        return
    if text is not None or caption_shape(preset.model):
        check_captions(preset, text, images, validation)
    else:
        check_classes(preset, images, validation)
    if isinstance(preset.model, DiTConfig) and any(isinstance(each, TokenCache) for each in (images, validation)):
        raise ValueError("A DiT learns from images: expected neither --tokens nor --validation-tokens, got one.")
    if not draws_pixels(preset):
        checkpoints.check_pair(preset.tokenizer, preset.model)
    check_config(preset.model_train, ranks, len(images), validation)


def check_classes(preset: Preset, images: Dataset, validation: Dataset | None) -> None:
    """Raise ``ValueError`` unless images and model have as many classes."""
    got, expected = len(images.class_names), preset.model.num_classes
    if got != expected:
        raise ValueError(f"The preset has {expected} classes, the data has {got}: add --set model.num_classes={got}.")
    if validation is not None and len(validation.class_names) != expected:
        raise ValueError(
            f"The held-out images must be called as the others are: expected {expected} classes, got "
            f"{len(validation.class_names)}."
        )


def check_captions(preset: Preset, text: TextEncoder | None, images: Dataset, validation: Dataset | None) -> None:
    """Raise ``ValueError`` unless images, encoder and model of captions go together."""
    if text is None:
        raise ValueError(f"{preset.name} draws from captions: expected a text encoder; got none.")
    checkpoints.check_text(text, preset.model)
    for each in (images, validation):
        if each is not None and not hasattr(each, "captions"):
            kind = "a token cache" if isinstance(each, TokenCache) else f"a {type(each).__name__}"
            raise ValueError(f"{preset.name} learns from images with captions (data.captioned); got {kind} without.")


def keep_text(text: TextEncoder, out: Path, ranks: Ranks) -> None:
    """Write the text encoder of a run into its folder; ``ValueError`` if another one is there."""
    path = out / checkpoints.TEXT_FILE
    if path.is_file():
        there, _ = checkpoints.load(path, "TextEncoder")
        if weights_fingerprint(there) != weights_fingerprint(text):
            raise ValueError(f"{out} has another text encoder than this run: choose another --out.")
    elif ranks.leads:
        checkpoints.save(text, path)
    ranks.wait()


def take_tokenizer(
    folder: Path,
    out: Path,
    preset: Preset,
    images: Dataset,
    ranks: Ranks,
    validation: Dataset | None = None,
    text: TextEncoder | None = None,
) -> VQVAE:
    """A tokenizer that is trained already; a run that takes it from elsewhere gets a copy.

    Raises ``ValueError`` if the preset needs none, and unless preset, data and tokenizer belong together.
    """
    if draws_pixels(preset):
        raise ValueError(f"{preset.name} draws pixels: expected neither --tokenizer nor --tokens, got one.")
    tokenizer, _ = checkpoints.load(folder / "tokenizer.safetensors", "VQVAE")
    check_run(dataclasses.replace(preset, tokenizer=tokenizer.config), images, "all", ranks, validation, text)
    if isinstance(images, TokenCache):
        images.check(tokenizer, preset.model)
    keep_tokenizer(tokenizer, folder, out, ranks)
    return tokenizer


def keep_tokenizer(tokenizer: VQVAE, source: Path, out: Path, ranks: Ranks) -> None:
    """Write the tokenizer of a run into its folder, so that the pair stays together.

    Raises ``ValueError`` if another one is there than that of ``source``.
    """
    own = out / "tokenizer.safetensors"
    if own.is_file():
        there, _ = checkpoints.load(own, "VQVAE")
        if weights_fingerprint(there) != weights_fingerprint(tokenizer):
            raise ValueError(f"{out} has a tokenizer of its own, another than {source} has: choose another --out.")
    elif ranks.leads:
        checkpoints.save(tokenizer, own, taken_from=str(source))
