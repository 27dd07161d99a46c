"""VAR's published checkpoints, in and out."""

import torch
from torch import Tensor, nn

from minivar.checkpoints.own import load_strictly
from minivar.checkpoints.published import agreed, count, shape_of, translate
from minivar.files import CheckpointError, State, read_state_dict
from minivar.models import VAR, VARConfig
from minivar.scales import PUBLISHED, ScaleSchedule
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig

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
    if isinstance(model, VAR):
        return translate(model, VAR_NAMES)
    last = len(model.decoder.levels) - 1  # our decoder counts levels in the order of the data, theirs by resolution
    reverse = (r"^decoder\.levels\.(\d+)", lambda m: f"decoder.up.{last - int(m[1])}")
    return translate(model, (reverse, *TOKENIZER_NAMES))


def _constants(model: VAR) -> dict[str, Tensor]:
    """Entries of a published transformer file that the architecture determines; minivar computes them on the fly."""
    device = model.position_1LD.device
    mask_LL = model.schedule.block_causal_mask(device)
    bias_LL = torch.zeros(mask_LL.shape, device=device).masked_fill(~mask_LL, -torch.inf)
    constants = {"lvl_1L": model.schedule.level_ids(device)[None], "attn_bias_for_masking": bias_LL[None, None]}
    zero = torch.zeros(model.config.width, device=device)
    return constants | {f"blocks.{i}.attn.zero_k_bias": zero.clone() for i in range(len(model.blocks))}


def _tokenizer_config(state: State, schedule: ScaleSchedule, **shared: int) -> TokenizerConfig:
    levels = count(state, r"encoder\.down\.(\d+)\.")
    block = "encoder.down.{}.block.0.{}"
    places = [[(block.format(i, n), 0) for n in ("conv1.bias", "norm2.bias", "conv1.weight")] for i in range(levels)]
    widths = [agreed(state, *level) for level in places]
    nets = NetConfig(
        image_channels=agreed(state, ("encoder.conv_in.weight", 1), ("decoder.conv_out.bias", 0)),
        base_channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        res_blocks=count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        attention=any(".attn" in key for key in state),
    )
    return TokenizerConfig(
        image_size=tuple(side * nets.stride for side in schedule.final_grid),
        nets=nets,
        quant_conv_kernel=shape_of(state, "quant_conv.weight")[-1],
        schedule=schedule,
        num_phi=count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\."),
        **shared,
    )


def _var_config(state: State, **shared) -> VARConfig:
    width = agreed(state, ("word_embed.bias", 0), ("pos_start", -1), ("word_embed.weight", 0))
    scale_key = next((key for key in state if key.endswith(".attn.scale_mul_1H11")), None)  # L2-normalised attention
    fc1 = "blocks.0.ffn.fc1"
    depth = count(state, r"blocks\.(\d+)\.")
    return VARConfig.from_depth(
        depth,
        width=width,
        heads=shape_of(state, scale_key)[1] if scale_key else width // 64,
        mlp_ratio=agreed(state, (f"{fc1}.bias", 0), (f"{fc1}.weight", 0), ("blocks.0.ffn.fc2.weight", 1)) / width,
        num_classes=shape_of(state, "class_emb.weight")[0] - 1,
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
    vae_state = dict(read_state_dict(vae_state, "trainer", "vae_local"))
    var_state = dict(read_state_dict(var_state, "trainer", "var_wo_ddp"))
    if scales is None:
        tokens = shape_of(var_state, "pos_1LC")[1]
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
        "codebook_size": agreed(both, ("quantize.embedding.weight", 0), ("head.bias", 0), ("head.weight", 0)),
        "code_dim": agreed(both, ("quantize.embedding.weight", 1), ("word_embed.weight", 1), ("quant_conv.bias", 0)),
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
    load_strictly(tokenizer, vae_state, names, "of the tokenizer")
    load_strictly(model, var_state, _published_names(model), "of the transformer", _constants(model))
    return tokenizer.eval(), model.eval()


def to_var(tokenizer: VQVAE, model: VAR) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The exact inverse of ``from_var``: published state dicts (tokenizer, transformer), constants included.

    Raises ``CheckpointError`` for a transformer of a kind that was not published, with the class as a prefix alone.
    """
    if model.config.conditioning != "adaln":
        raise CheckpointError(f"The published VAR has AdaLN; got conditioning {model.config.conditioning!r}.")
    vae_names, var_names = _published_names(tokenizer), _published_names(model)
    vae_state = {vae_names[ours]: value for ours, value in tokenizer.state_dict().items()}
    var_state = {var_names[ours]: value for ours, value in model.state_dict().items()}
    return vae_state, var_state | _constants(model)
