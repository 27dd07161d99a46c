"""DiT's published checkpoints (facebookresearch/DiT)."""

import torch

from minivar.checkpoints.own import load_strictly
from minivar.checkpoints.published import count, shape_of, translate
from minivar.files import CheckpointError, read_state_dict
from minivar.models.dit import SIZES, DiT, DiTConfig

# Own name -> published name, applied in order.
NAMES = (
    (r"^patch_embed\.", "x_embedder.proj."),
    (r"^time1\.", "t_embedder.mlp.0."),
    (r"^time2\.", "t_embedder.mlp.2."),
    (r"^class_embed\.", "y_embedder.embedding_table."),
    (r"^head\.", "final_layer.linear."),
    (r"^head_ada\.", "final_layer.adaLN_modulation.1."),
    (r"\.ada\.", ".adaLN_modulation.1."),
)
SCALE = 0.18215  # by which the published code multiplies its autoencoder's latents
HEADS = {width: heads for _, width, heads in SIZES.values()}


def from_dit(state, heads: int | None = None) -> DiT:
    """Published DiT (state dict, wrapped or bare, or path) -> minivar's, in eval mode.

    ``heads=None`` takes those of the published widths. Guidance moves three of four channels, as in the published
    code. The table of positions, a constant, may be missing. Raises ``CheckpointError`` naming what does not fit.
    """
    state = dict(read_state_dict(state, "ema", "model", "state_dict"))
    positions = state.pop("pos_embed", None)
    width, channels, patch, _ = shape_of(state, "x_embedder.proj.weight")
    if heads is None:
        if width not in HEADS:
            widths = ", ".join(map(str, HEADS))
            raise CheckpointError(f"Width {width} is not a published one ({widths}): expected the argument heads.")
        heads = HEADS[width]
    side = round((1024 // patch**2 if positions is None else positions.shape[1]) ** 0.5)
    config = DiTConfig(
        depth=count(state, r"blocks\.(\d+)\."),
        width=width,
        heads=heads,
        mlp_ratio=shape_of(state, "blocks.0.mlp.fc1.weight")[0] / width,
        num_classes=shape_of(state, "y_embedder.embedding_table.weight")[0] - 1,
        channels=channels,
        input_size=side * patch,
        patch=patch,
        guided_channels=min(3, channels),
    )
    with torch.device("meta"):
        model = DiT(config)
    state["mean_C11"] = torch.zeros(channels, 1, 1)
    state["deviation_C11"] = torch.full((channels, 1, 1), 1 / SCALE)
    load_strictly(model, state, translate(model, NAMES), "of the DiT")
    return model.eval()
