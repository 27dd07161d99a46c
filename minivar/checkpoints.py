"""Checkpoints: minivar's own format, and VAR's published files in and out.

Own format: one safetensors file a model, whose header holds the model's kind and configuration, so that a file is
all one needs. No pickle is ever executed: published ``.pth`` files are read with ``weights_only=True``.
"""

import dataclasses
import json
import os
import re
import statistics
import tempfile
import types
import typing
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from minivar.metrics import ClassifierConfig, DigitClassifier
from minivar.nets import NetConfig
from minivar.scales import PUBLISHED, ScaleSchedule
from minivar.tokenizer import VQVAE, TokenizerConfig
from minivar.transformer import VAR, VARConfig

State = Mapping[str, Tensor]
KINDS = {
    "VQVAE": (VQVAE, TokenizerConfig),
    "VAR": (VAR, VARConfig),
    "DigitClassifier": (DigitClassifier, ClassifierConfig),
}


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, does not fit, or could not be written."""


# Own format -----------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: State, metadata: Mapping[str, object]) -> None:
    """Write a safetensors file so that ``path`` holds either the old content or all of the new.

    ``metadata`` values are stored as JSON in the header. Raises ``CheckpointError`` if the file cannot be written,
    for instance because the disk is full; the previous file is then untouched.
    """
    header = {key: json.dumps(value) for key, value in metadata.items()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata=header))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary file beside ``path``, sync it to disk, then rename it to ``path``."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        os.close(handle)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"Could not write {path} ({error}); what was there before is untouched.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of a file written by ``write_tensors``; ``CheckpointError`` if missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}: expected a .safetensors file there.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a complete minivar checkpoint: expected a whole safetensors file, got {error}."
        ) from error


def save(model: nn.Module, path: Path, **extra: object) -> None:
    """Write a model with its configuration; ``extra`` (JSON-able) goes into the header beside it."""
    kind = type(model).__name__
    metadata = {"format": "minivar-1", "kind": kind, "config": dataclasses.asdict(model.config), **extra}
    write_tensors(path, model.state_dict(), metadata)


def load(path: Path, kind: str | None = None) -> tuple[nn.Module, dict]:
    """Read a model written by ``save``: (model in eval mode, header). ``kind`` names the class that is expected."""
    tensors, header = read_tensors(path)
    found = header.get("kind")
    if found not in KINDS or kind not in (None, found):
        raise CheckpointError(f"{path} holds a {found}; expected {kind or ' or '.join(KINDS)}.")
    model_class, config_class = KINDS[found]
    try:
        with torch.device("meta"):
            model = model_class(config_from_dict(config_class, header["config"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} has no configuration that fits a {found}; got {error!r}.") from error
    _load_strictly(model, tensors, {name: name for name in model.state_dict()}, str(path))
    return model.eval(), header


def load_pair(directory: Path) -> tuple[VQVAE, VAR, dict]:
    """Tokenizer, transformer and the transformer's header from a directory that training (or minivar) filled."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CheckpointError(
            f"No checkpoint directory at {directory}: expected one with tokenizer.safetensors and var.safetensors."
        )
    tokenizer, _ = load(directory / "tokenizer.safetensors", "VQVAE")
    model, header = load(directory / "var.safetensors", "VAR")
    tokenizer_shape = (tokenizer.schedule.grids, *tokenizer.quantizer.codebook.shape)
    model_shape = (model.schedule.grids, model.config.codebook_size, model.config.code_dim)
    if tokenizer_shape != model_shape:
        raise CheckpointError(
            f"The two checkpoints in {directory} do not belong together: (grids, V, C) is {tokenizer_shape} in "
            f"the tokenizer and {model_shape} in the transformer."
        )
    return tokenizer, model, header


def config_from_dict(cls, data):
    """Rebuild a (nested) frozen dataclass from ``dataclasses.asdict`` after a trip through JSON."""
    hints = typing.get_type_hints(cls)

    def restore(hint, value):
        if isinstance(hint, types.UnionType) and value is not None:
            hint = next((option for option in hint.__args__ if dataclasses.is_dataclass(option)), None)
        if dataclasses.is_dataclass(hint):
            return config_from_dict(hint, value)
        return tuple(restore(None, v) for v in value) if isinstance(value, list | tuple) else value

    return cls(**{key: restore(hints[key], value) for key, value in data.items()})


def _load_strictly(model: nn.Module, state: State, names: Mapping[str, str], source: str, constants=None) -> None:
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


# Published VAR files --------------------------------------------------------------------------------------------

# Own name -> published name, applied in order. "L-n" stands for the decoder's reversed level numbering.
TOKENIZER_NAMES = (
    (r"^encoder\.levels\.", "encoder.down."),
    (r"\.blocks\.", ".block."),
    (r"\.attns\.", ".attn."),
    (r"\.middle\.(block|attn)(\d?)", lambda m: f".mid.{m[1]}_{m[2] or 1}"),
    (r"^(encoder.*)\.resample\.", r"\1.downsample."),
    (r"^(decoder.*)\.resample\.", r"\1.upsample."),
    (r"\.skip\.", ".nin_shortcut."),
    (r"(attn(?:\.\d+|_1))\.proj\.", r"\1.proj_out."),
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
    (r"^quantizer\.phis\.(\d+)\.conv\.", r"quantize.quant_resi.qresi_ls.\1."),
    (r"^quantizer\.usage_KV$", "quantize.ema_vocab_hit_SV"),
)
VAR_NAMES = (
    (r"^start_1lD$", "pos_start"),
    (r"^position_1LD$", "pos_1LC"),
    (r"^class_embed\.", "class_emb."),
    (r"^level_embed\.", "lvl_embed."),
    (r"^shared_ada\.", "shared_ada_lin.1."),
    (r"^head_ada\.", "head_nm.ada_lin.1."),
    (r"\.ada\.", ".ada_lin.1."),
    (r"\.ada_table_116D$", ".ada_gss"),
    (r"\.log_scale_1H11$", ".scale_mul_1H11"),
    (r"\.attn\.qkv\.", ".attn.mat_qkv."),
    (r"\.mlp\.", ".ffn."),
)


def _published_names(model: nn.Module) -> dict[str, str]:
    """Own name -> published name, for every entry of the model."""
    rules = VAR_NAMES if isinstance(model, VAR) else TOKENIZER_NAMES
    names = {}
    for ours in model.state_dict():
        theirs = ours
        if isinstance(model, VQVAE):  # our decoder counts levels in the order of the data, theirs by resolution
            last = len(model.decoder.levels) - 1
            theirs = re.sub(r"^decoder\.levels\.(\d+)", lambda m, n=last: f"decoder.up.{n - int(m[1])}", theirs)
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[ours] = theirs
    return names


def _constants(model: VAR) -> dict[str, Tensor]:
    """Entries of a published transformer file that the architecture determines; minivar computes them on the fly."""
    device = model.position_1LD.device
    mask_LL = model.schedule.block_causal_mask(device)
    bias_LL = torch.zeros(mask_LL.shape, device=device).masked_fill(~mask_LL, -torch.inf)
    constants = {"lvl_1L": model.schedule.level_ids(device)[None], "attn_bias_for_masking": bias_LL[None, None]}
    zero = torch.zeros(model.config.width, device=device)
    return constants | {f"blocks.{i}.attn.zero_k_bias": zero.clone() for i in range(len(model.blocks))}


def _unwrap(source: State | str | Path, trainer_key: str) -> State:
    """A bare state dict, from a state dict, a file written by the authors' trainer, or the path of either."""
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise CheckpointError(f"No checkpoint at {source}: expected a published .pth file.")
        try:
            mmap = zipfile.is_zipfile(source)  # files from before PyTorch 1.6 are not, and are read whole
            source = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
        except Exception as error:  # torch.load raises many kinds for damaged files
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{source} is not a readable PyTorch checkpoint: {reason}") from error
    if isinstance(source, Mapping) and isinstance(source.get("trainer"), Mapping):
        source = source["trainer"]
    state = source.get(trainer_key, source) if isinstance(source, Mapping) else source
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(
            f"Expected a state dict, names to tensors, or a trainer file with {trainer_key!r} in it."
        )
    return state


def _shape(state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"The checkpoint does not fit; missing: {key}.")
    return tuple(state[key].shape)


def _agreed(state: State, *places: tuple[str, int]) -> int:
    """The size that most of these (key, dimension) have, so that one wrong entry is named and not believed."""
    return statistics.mode(shape[dim] for key, dim in places if len(shape := _shape(state, key)) > max(dim, 0))


def _count(state: State, pattern: str) -> int:
    """How many different numbers stand at (\\d+) in the keys that match."""
    return len({m[1] for key in state if (m := re.match(pattern, key))})


def _tokenizer_config(state: State, schedule: ScaleSchedule, **shared: int) -> TokenizerConfig:
    levels = _count(state, r"encoder\.down\.(\d+)\.")
    block = "encoder.down.{}.block.0.{}"
    places = [[(block.format(i, n), 0) for n in ("conv1.bias", "norm2.bias", "conv1.weight")] for i in range(levels)]
    widths = [_agreed(state, *level) for level in places]
    nets = NetConfig(
        image_channels=_agreed(state, ("encoder.conv_in.weight", 1), ("decoder.conv_out.bias", 0)),
        base_channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        res_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        attention=any(".attn" in key for key in state),
    )
    return TokenizerConfig(
        image_size=tuple(side * nets.stride for side in schedule.final_grid),
        nets=nets,
        quant_conv_kernel=_shape(state, "quant_conv.weight")[-1],
        schedule=schedule,
        num_phi=_count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\."),
        **shared,
    )


def _var_config(state: State, **shared) -> VARConfig:
    width = _agreed(state, ("word_embed.bias", 0), ("pos_start", -1), ("word_embed.weight", 0))
    scale_key = next((key for key in state if key.endswith(".attn.scale_mul_1H11")), None)  # L2-normalised attention
    fc1 = "blocks.0.ffn.fc1"
    depth = _count(state, r"blocks\.(\d+)\.")
    return VARConfig.from_depth(
        depth,
        width=width,
        heads=_shape(state, scale_key)[1] if scale_key else width // 64,
        mlp_ratio=_agreed(state, (f"{fc1}.bias", 0), (f"{fc1}.weight", 0), ("blocks.0.ffn.fc2.weight", 1)) / width,
        num_classes=_shape(state, "class_emb.weight")[0] - 1,
        shared_adaln=any(key.endswith(".ada_gss") for key in state),
        l2_norm_attention=scale_key is not None,
        **shared,
    )


def from_var(vae_state, var_state, scales=None) -> tuple[VQVAE, VAR]:
    """Published VAR tokenizer and transformer -> minivar's, in eval mode.

    Each argument is a bare state dict, a file of the authors' trainer (``["trainer"]["vae_local"]``,
    ``["trainer"]["var_wo_ddp"]``), or a path to either. ``scales`` is a ``ScaleSchedule`` or its sides; None finds
    the published schedule with as many tokens (680, 2240 or 9451). All else is inferred from names and shapes.
    Tensors are taken over, not copied. Raises ``CheckpointError`` naming the entries that do not fit.
    """
    vae_state, var_state = dict(_unwrap(vae_state, "vae_local")), dict(_unwrap(var_state, "var_wo_ddp"))
    if scales is None:
        tokens = _shape(var_state, "pos_1LC")[1]
        if tokens not in PUBLISHED:
            raise CheckpointError(
                f"The checkpoint has {tokens} tokens, expected those of a published schedule "
                f"({', '.join(map(str, PUBLISHED))}) or the argument scales, for instance scales=(1, 2, 3, 4)."
            )
        scales = PUBLISHED[tokens]
    schedule = scales if isinstance(scales, ScaleSchedule) else ScaleSchedule(tuple(scales))
    both = {**vae_state, **var_state}
    shared = {
        "schedule": schedule,
        "codebook_size": _agreed(both, ("quantize.embedding.weight", 0), ("head.bias", 0), ("head.weight", 0)),
        "code_dim": _agreed(both, ("quantize.embedding.weight", 1), ("word_embed.weight", 1), ("quant_conv.bias", 0)),
    }
    with torch.device("meta"):
        tokenizer = VQVAE(_tokenizer_config(vae_state, **shared))
        model = VAR(_var_config(var_state, **shared))
    names = _published_names(tokenizer)
    usage, own_usage = names["quantizer.usage_KV"], tokenizer.quantizer.usage_KV
    if usage not in vae_state or vae_state[usage].shape != own_usage.shape:
        # statistics of another schedule (the 256 px tokenizer also serves 512 and 1024 px) or none: start at zero
        device = next(iter(vae_state.values())).device
        vae_state[usage] = torch.zeros(own_usage.shape, device=device)
    _load_strictly(tokenizer, vae_state, names, "of the tokenizer")
    _load_strictly(model, var_state, _published_names(model), "of the transformer", _constants(model))
    return tokenizer.eval(), model.eval()


def to_var(tokenizer: VQVAE, model: VAR) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The exact inverse of ``from_var``: published state dicts (tokenizer, transformer), constants included."""
    vae_names, var_names = _published_names(tokenizer), _published_names(model)
    vae_state = {vae_names[ours]: value for ours, value in tokenizer.state_dict().items()}
    var_state = {var_names[ours]: value for ours, value in model.state_dict().items()}
    return vae_state, var_state | _constants(model)
