"""LlamaGen's published checkpoints: tokenizers, class- and caption-conditional transformers."""

import re

import torch

from minivar.checkpoints.own import load_strictly
from minivar.checkpoints.published import count, shape_of, translate
from minivar.files import CheckpointError, read_state_dict
from minivar.models import GPT, GPTConfig
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig

# Own name -> published name, applied in order.
TOKENIZER_NAMES = (
    (r"\.levels\.", ".conv_blocks."),
    (r"\.blocks\.", ".res."),
    (r"\.attns\.", ".attn."),
    (r"\.middle\.block1\.", ".mid.0."),
    (r"\.middle\.attn\.", ".mid.1."),
    (r"\.middle\.block2\.", ".mid.2."),
    (r"^(encoder.*)\.resample\.", r"\1.downsample."),
    (r"^(decoder.*)\.resample\.", r"\1.upsample."),
    (r"\.skip\.", ".nin_shortcut."),
    (r"((?:attn\.\d+|mid\.1))\.proj\.", r"\1.proj_out."),
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
)
GPT_NAMES = (
    (r"^blocks\.", "layers."),
    (r"^class_embed\.", "cls_embedding.embedding_table."),
    (r"^null_caption$", "cls_embedding.uncond_embedding"),
    (r"^caption(\d)\.", r"cls_embedding.cap_proj.fc\1."),
    (r"^token_embed\.", "tok_embeddings."),
    (r"^head\.", "output."),
    (r"\.qkv\.", ".attention.wqkv."),
    (r"(?<!_)\.proj\.", ".attention.wo."),
    (r"\.mlp\.", ".feed_forward."),
    (r"\.mlp_norm\.", ".ffn_norm."),
)
PUBLISHED_HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 3200: 32}


WRAPPERS = ("model", "module", "state_dict")


def from_llamagen_tokenizer(state) -> VQVAE:
    """Published LlamaGen tokenizer (state dict, wrapped or bare, or path) -> minivar's, in eval mode.

    It takes images of any size that is a multiple of its stride, 16 or 8. Raises ``CheckpointError`` naming the
    entries that do not fit.
    """
    state = dict(read_state_dict(state, *WRAPPERS))
    state.pop("quantize.codebook_used", None)  # a running statistic of the authors' trainer
    levels = count(state, r"encoder\.conv_blocks\.(\d+)\.")
    base, image_channels = shape_of(state, "encoder.conv_in.weight")[:2]
    widths = [shape_of(state, f"encoder.conv_blocks.{i}.res.0.conv1.weight")[0] for i in range(levels)]
    nets = NetConfig(
        image_channels=image_channels,
        base_channels=base,
        multipliers=tuple(width // base for width in widths),
        res_blocks=count(state, r"encoder\.conv_blocks\.0\.res\.(\d+)\."),
    )
    codebook_size, code_dim = shape_of(state, "quantize.embedding.weight")
    config = TokenizerConfig(
        image_size=None,
        nets=nets,
        codebook_size=codebook_size,
        code_dim=code_dim,
        quantizer="single",
        z_channels=shape_of(state, "encoder.conv_out.weight")[0],
        quant_conv_kernel=shape_of(state, "quant_conv.weight")[-1],
        schedule=None,
    )
    with torch.device("meta"):
        tokenizer = VQVAE(config)
    names = translate(tokenizer, TOKENIZER_NAMES)
    state["usage"] = torch.zeros(1, codebook_size, device=state["quant_conv.bias"].device)
    names["quantizer.usage_KV"] = "usage"
    for ours, theirs in [(ours, name) for ours, name in names.items() if re.search(r"\.qkv\.", name)]:
        parts = [theirs.replace(".qkv.", f".{letter}.") for letter in "qkv"]  # three 1x1 convolutions there, one here
        missing = [part for part in parts if part not in state]
        found = [state.pop(part) for part in parts if part in state]
        if missing:
            names[ours] = missing[0]  # for the error message
        else:
            state[theirs] = torch.cat(found)
    load_strictly(tokenizer, state, names, "of the LlamaGen tokenizer")
    return tokenizer.eval()


def from_llamagen_gpt(
    state, heads: int | None = None, norm_eps: float = 1e-5, grid: tuple[int, int] | None = None
) -> GPT:
    """Published LlamaGen transformer, class- or caption-conditional -> minivar's, in eval mode.

    ``heads=None`` takes those of the published widths. The grid is not in the file, since rotary positions have no
    parameters (16 x 16 for 256 pixels, 24 x 24 for 384): with ``grid=None`` the model takes any, and
    ``sample_raster`` wants to know it. Raises ``CheckpointError`` naming the entries that do not fit.
    """
    state = dict(read_state_dict(state, *WRAPPERS))
    state.pop("freqs_cis", None)  # the rotary table, a constant, which the published sampler does not load either
    codebook_size, width = shape_of(state, "tok_embeddings.weight")
    if heads is None:
        if width not in PUBLISHED_HEADS:
            widths = ", ".join(map(str, PUBLISHED_HEADS))
            raise CheckpointError(f"Width {width} is not a published one ({widths}): expected the argument heads.")
        heads = PUBLISHED_HEADS[width]
    hidden = shape_of(state, "layers.0.feed_forward.w1.weight")[0]
    caption = "cls_embedding.uncond_embedding" in state
    captions = shape_of(state, "cls_embedding.uncond_embedding") if caption else (0, 0)
    classes = 0 if caption else shape_of(state, "cls_embedding.embedding_table.weight")[0] - 1
    config = GPTConfig(
        depth=count(state, r"layers\.(\d+)\."),
        width=width,
        heads=heads,
        grid=grid,
        codebook_size=codebook_size,
        num_classes=classes,
        caption_tokens=captions[0],
        caption_dim=captions[1],
        hidden=hidden,
        norm_eps=norm_eps,
    )
    with torch.device("meta"):
        model = GPT(config)
    load_strictly(model, state, translate(model, GPT_NAMES), "of the LlamaGen transformer")
    return model.eval()
