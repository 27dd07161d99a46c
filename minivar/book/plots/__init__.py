"""Every figure of the book. Functions take data and return a matplotlib figure; nothing is computed twice here.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from minivar.book.plots.arc import Story, arc
from minivar.book.plots.attention import attention_masks, attention_pyramid, leakage
from minivar.book.plots.base import (
    COLOURS,
    image_grid,
    save_figure,
    save_images,
    scale_colour,
    show_image,
    stack_rows,
    to_unit,
)
from minivar.book.plots.block import adaln_block, llama_block
from minivar.book.plots.codes import (
    cells_that_share,
    code_ablation,
    code_plane,
    image_as_tokens,
    pulls,
    staircase,
    token_flips,
)
from minivar.book.plots.cost import ORDER_STYLE, cost_bars, cost_curves, cost_lines, pair_counts
from minivar.book.plots.duel import DUEL_STYLE, duel_guidance, duel_points
from minivar.book.plots.exploring import (
    attention_of_token,
    changed_tokens,
    drawn_and_weighed,
    guided_frame,
    redrawn,
    sum_so_far,
)
from minivar.book.plots.frontier import frontier
from minivar.book.plots.judging import balls, damage_table, gaussians_in_plane, size_bias, trade_off
from minivar.book.plots.published import file_shares, level_numbers, single_faults
from minivar.book.plots.raster import (
    cell_maps,
    filling,
    hatched,
    hole_sees,
    kept_codes,
    raster_neighbours,
    teacher_forcing,
)
from minivar.book.plots.rivals import (
    fid_by_size,
    learning_by_minute,
    precision_and_recall,
    published_field,
    rungs,
    side_points,
)
from minivar.book.plots.sampling import (
    cache_reads,
    filter_orders,
    guidance_frames,
    guidance_line,
    mixtures,
    roofline,
    time_bars,
)
from minivar.book.plots.scale import (
    MEMORY_PARTS,
    crop_windows,
    days_lines,
    find_windows,
    gan_curves,
    memory_bars,
    two_truths,
)
from minivar.book.plots.scaling import (
    loss_over_compute,
    losses_by_scale,
    power_laws,
    rung_pictures,
    seen_and_heldout,
)
from minivar.book.plots.serving import latencies
from minivar.book.plots.strip import sampling_strip
from minivar.book.plots.system import system
from minivar.book.plots.tokens import (
    network_shapes,
    number_grids,
    phi_ticks,
    pyramid_by_hand,
    scale_inputs,
    schedule_sides,
    token_maps,
)
from minivar.book.plots.training import line_panels, training_curves, usage_bars

__all__ = [
    "COLOURS",
    "DUEL_STYLE",
    "MEMORY_PARTS",
    "ORDER_STYLE",
    "Story",
    "adaln_block",
    "arc",
    "attention_masks",
    "attention_of_token",
    "attention_pyramid",
    "balls",
    "cache_reads",
    "cell_maps",
    "cells_that_share",
    "changed_tokens",
    "code_ablation",
    "code_plane",
    "cost_bars",
    "cost_curves",
    "cost_lines",
    "crop_windows",
    "damage_table",
    "days_lines",
    "drawn_and_weighed",
    "duel_guidance",
    "duel_points",
    "fid_by_size",
    "file_shares",
    "filling",
    "filter_orders",
    "find_windows",
    "frontier",
    "gan_curves",
    "gaussians_in_plane",
    "guidance_frames",
    "guidance_line",
    "guided_frame",
    "hatched",
    "hole_sees",
    "image_as_tokens",
    "image_grid",
    "kept_codes",
    "latencies",
    "leakage",
    "learning_by_minute",
    "level_numbers",
    "line_panels",
    "llama_block",
    "loss_over_compute",
    "losses_by_scale",
    "memory_bars",
    "mixtures",
    "network_shapes",
    "number_grids",
    "pair_counts",
    "phi_ticks",
    "power_laws",
    "precision_and_recall",
    "published_field",
    "pulls",
    "pyramid_by_hand",
    "raster_neighbours",
    "redrawn",
    "roofline",
    "rung_pictures",
    "rungs",
    "sampling_strip",
    "save_figure",
    "save_images",
    "scale_colour",
    "scale_inputs",
    "schedule_sides",
    "seen_and_heldout",
    "show_image",
    "side_points",
    "single_faults",
    "size_bias",
    "stack_rows",
    "staircase",
    "sum_so_far",
    "system",
    "teacher_forcing",
    "time_bars",
    "to_unit",
    "token_flips",
    "token_maps",
    "trade_off",
    "training_curves",
    "two_truths",
    "usage_bars",
]
