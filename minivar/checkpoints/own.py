"""minivar's own checkpoint format: one safetensors file a model, whose header holds its kind and configuration."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from minivar.files import CheckpointError, State, config_from_dict, read_tensors, weights_fingerprint, write_tensors
from minivar.models import (
    GENERATORS,
    Config,
    DiTConfig,
    Generator,
    GPTConfig,
    MaskGITConfig,
    TextConfig,
    TextEncoder,
    caption_shape,
)
from minivar.tokenizer import VQVAE, Pixels, TokenizerConfig

Kinds = Mapping[str, tuple[type[nn.Module], type]]  # name of a kind of model: its class and that of its configuration
KINDS: Kinds = {
    "VQVAE": (VQVAE, TokenizerConfig),
    "TextEncoder": (TextEncoder, TextConfig),
    **{model.__name__: (model, config) for config, model in GENERATORS.items()},
}
TEXT_FILE = "text.safetensors"  # of the encoder, beside a model of captions
FILES = {f"{model.__name__.lower()}.safetensors": model.__name__ for model in GENERATORS.values()}  # of a generator


def save(model: nn.Module, path: Path, state: State | None = None, **extra: object) -> None:
    """Write a model with its configuration; ``extra`` (JSON-able) goes into the header beside it.

    ``state`` are other weights of the same model: averaged ones, or gathered from several processes.
    """
    # by isinstance, since FSDP gives a model that it shards a class of its own, below the model's
    kind = next((name for name, (kind, _) in KINDS.items() if isinstance(model, kind)), type(model).__name__)
    config = dataclasses.asdict(model.config)
    metadata = {"format": "minivar-1", "kind": kind, "config": config, **extra}
    write_tensors(path, model.state_dict() if state is None else state, metadata)


def load(path: Path, kind: str | None = None, kinds: Kinds = KINDS) -> tuple[nn.Module, dict]:
    """Read a model written by ``save``: (model in eval mode, header). ``kind`` names the class that is expected.

    ``kinds`` are those that may be in the file: tokenizers and transformers, unless told. Tensors that were stored in
    float16, to save space, come back in float32.
    """
    tensors, header = read_tensors(path)
    found = header.get("kind")
    if found not in kinds or kind not in (None, found):
        raise CheckpointError(f"{path} holds a {found}; expected {kind or ' or '.join(kinds)}.")
    tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    model_class, config_class = kinds[found]
    try:
        with torch.device("meta"):
            model = model_class(config_from_dict(config_class, header["config"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} has no configuration that fits a {found}; got {error!r}.") from error
    load_strictly(model, tensors, {name: name for name in model.state_dict()}, str(path))
    return model.eval(), header


def load_pair(directory: Path) -> tuple[VQVAE | Pixels, Generator, dict]:
    """Tokenizer, transformer and the transformer's header from a directory that training (or minivar) filled.

    A DiT that draws pixels has no tokenizer, and ``Pixels`` in its place.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(
            f"No checkpoint directory at {directory}: expected one with tokenizer.safetensors and var.safetensors "
            "(or gpt.safetensors)."
        )
    found = [name for name in FILES if (directory / name).is_file()] or ["var.safetensors"]
    if len(found) > 1:
        raise CheckpointError(f"{directory} holds {' and '.join(found)}; expected one transformer a directory.")
    if not (directory / "tokenizer.safetensors").is_file() and found == ["dit.safetensors"]:
        model, header = load(directory / found[0], "DiT")
        if not model.config.latents:
            return Pixels(), model, header
    tokenizer, _ = load(directory / "tokenizer.safetensors", "VQVAE")
    model, header = load(directory / found[0], FILES[found[0]])
    check_pair(tokenizer.config, model.config, f" in {directory}")
    return tokenizer, model, header


def load_text(directory: Path, model: Generator, header: Mapping[str, object]) -> TextEncoder:
    """The text encoder in a directory that training filled, beside the model of captions that reads its features.

    Raises ``CheckpointError`` where it is missing, or another than the model learned with.
    """
    path = Path(directory) / TEXT_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no {TEXT_FILE}: expected the text encoder beside a model of captions."
        )
    text, _ = load(path, "TextEncoder")
    check_text(text, model.config, f" in {directory}")
    ours, theirs = weights_fingerprint(text), header.get("text")
    if ours != theirs:
        raise CheckpointError(
            f"Text encoder and transformer in {directory} do not belong together: the fingerprint of the encoder is "
            f"{ours[:12]}, and the transformer learned with {str(theirs)[:12]}."
        )
    return text


def check_text(text: TextEncoder, model: Config, where: str = "") -> None:
    """Raise ``CheckpointError`` unless the features of the encoder are what the transformer reads."""
    ours, theirs = (text.config.vocabulary.length, text.config.width), caption_shape(model)
    if ours != theirs:
        raise CheckpointError(
            f"Text encoder and transformer{where} do not belong together: (T, caption_dim) is {ours} in the encoder, "
            f"and the transformer expects {theirs or 'classes'}."
        )


def check_pair(tokenizer: TokenizerConfig, model: Config, where: str = "") -> None:
    """Raise ``CheckpointError`` unless the transformer speaks the tokenizer's language."""
    if isinstance(model, DiTConfig):
        what = "(C, grid)"
        theirs = (model.channels, (model.input_size, model.input_size))
        ours = (tokenizer.code_dim, tokenizer.latent_grid)
    elif isinstance(model, GPTConfig | MaskGITConfig):
        what = "(quantizer, grid, V)"
        theirs = ("single", model.grid or tokenizer.latent_grid, model.codebook_size)
        ours = (tokenizer.quantizer, tokenizer.latent_grid or model.grid, tokenizer.codebook_size)
    else:
        what = "(quantizer, grids, V, C)"
        theirs = ("multi-scale", model.schedule.grids, model.codebook_size, model.code_dim)
        grids = tokenizer.schedule and tokenizer.schedule.grids  # None for a single-scale tokenizer
        ours = (tokenizer.quantizer, grids, tokenizer.codebook_size, tokenizer.code_dim)
    if ours != theirs:
        raise CheckpointError(
            f"Tokenizer and transformer{where} do not belong together: {what} is {ours} in the tokenizer, and the "
            f"transformer expects {theirs}."
        )


def load_strictly(model: nn.Module, state: State, names: Mapping[str, str], source: str, constants=None) -> None:
    """Give the model the tensors of ``state``; ``names``: own name -> name in ``state``, used in the error.

    ``state`` may hold ``constants``, which are not loaded, but must have the right shape.
    """
    constants = constants or {}
    own = model.state_dict() | constants
    names = {**names, **{key: key for key in constants if key in state}}
    missing = [theirs for theirs in names.values() if theirs not in state]
    unexpected = sorted(set(state) - set(names.values()))
    wrong = [
        f"{theirs} has shape {tuple(state[theirs].shape)}, expected {tuple(own[ours].shape)}"
        for ours, theirs in names.items()
        if theirs in state and state[theirs].shape != own[ours].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    if any(problems.values()):
        parts = [
            f"{title}: {', '.join(entries[:3])}" + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")
            for title, entries in problems.items()
            if entries
        ]
        raise CheckpointError(f"The checkpoint {source} does not fit; {'; '.join(parts)}.")
    learned = {ours: state[theirs] for ours, theirs in names.items() if ours not in constants}
    model.load_state_dict(learned, assign=True)
    model.requires_grad_(True)
