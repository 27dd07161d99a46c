"""Logits to tokens to images: filters, the KV cache, loops (next scale, raster, masked, diffusion), editing."""

from minivar.sampling.config import (
    SETTINGS,
    AnySamplingConfig,
    DiffusionSamplingConfig,
    MaskedSamplingConfig,
    RasterSamplingConfig,
    SamplingConfig,
)
from minivar.sampling.diffusion import sample_diffusion
from minivar.sampling.drawing import Sample, check_labels, draw_tokens, gumbel_codes
from minivar.sampling.economical import Economy, sample_economically
from minivar.sampling.editing import edit, masks_per_scale
from minivar.sampling.eight_bits import eight_bits
from minivar.sampling.filters import filter_descending, filter_logits, guide
from minivar.sampling.forming import Stage, check_forming, forming
from minivar.sampling.generation import generate
from minivar.sampling.inpainting import check_editable, composite, extended, inpaint, kept_cells, outpaint, redraw
from minivar.sampling.kv_cache import KVCache, cache_bytes, images_at_once
from minivar.sampling.masked import hidden_counts, hidden_share, sample_masked
from minivar.sampling.next_scale import ScaleState, check_sampling, sample, sample_scales
from minivar.sampling.packing import packed
from minivar.sampling.raster import sample_raster

__all__ = [
    "SETTINGS",
    "AnySamplingConfig",
    "DiffusionSamplingConfig",
    "Economy",
    "KVCache",
    "MaskedSamplingConfig",
    "RasterSamplingConfig",
    "Sample",
    "SamplingConfig",
    "ScaleState",
    "Stage",
    "cache_bytes",
    "check_editable",
    "check_forming",
    "check_labels",
    "check_sampling",
    "composite",
    "draw_tokens",
    "edit",
    "eight_bits",
    "extended",
    "filter_descending",
    "filter_logits",
    "forming",
    "generate",
    "guide",
    "hidden_counts",
    "hidden_share",
    "gumbel_codes",
    "masks_per_scale",
    "images_at_once",
    "inpaint",
    "kept_cells",
    "outpaint",
    "packed",
    "redraw",
    "sample",
    "sample_diffusion",
    "sample_economically",
    "sample_masked",
    "sample_raster",
    "sample_scales",
]
