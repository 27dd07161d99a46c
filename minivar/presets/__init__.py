"""Presets: all numbers of a run, as frozen dataclasses that can be read like a table.

A preset says what to train on, the shapes of tokenizer and transformer, how each is optimised, and how samples are
drawn. The small case and the full case are the same code with other numbers:

================== ========================================= ======================= ================================
preset             what it is                                hardware, time          result
================== ========================================= ======================= ================================
digits-smoke       the default of chapter 06                 2 CPU cores, 2 minutes  accuracy .98, Frechet ratio 4
digits             what ``make run`` trains                  2 CPU cores, 8 minutes  accuracy .992, Frechet ratio 1.7
digits-long        shipped in ``data/checkpoints/digits``    1 CPU core, 50 minutes  accuracy .991, Frechet ratio 1.2
emoji              shipped in ``data/checkpoints/emoji``     2 CPU cores, 1.8 hours  scores.json beside it
folder-smoke       every step of chapter 13, in miniature    2 CPU cores, 1 minute   nothing to look at
duel-var           1.0 M, the head-to-head of chapter 08a    1 CPU core, 15 minutes  data/results/head_to_head.json
duel-llamagen      the same in raster order, Llama style     1 CPU core, 15 minutes  data/results/head_to_head.json
duel-gpt2          the same in raster order, GPT-2 style     1 CPU core, 15 minutes  data/results/head_to_head.json
duel-var-prefix    the first without AdaLN, a block deeper   1 CPU core, 10 minutes  data/results/rivals.json
duel-raster        raster order with the first one's blocks  1 CPU core, 10 minutes  data/results/rivals.json
duel-raster-prefix the same without AdaLN, a block deeper  1 CPU core, 10 minutes  data/results/rivals.json
duel-maskgit       the same blocks, hidden tokens guessed    1 CPU core, 10 minutes  data/results/rivals.json
duel-dit           diffusion in the tokenizer's latents      1 CPU core, 10 minutes  data/results/rivals.json
duel-dit-pixels    diffusion in pixels                       1 CPU core, 10 minutes  data/results/rivals.json
ladder-2 .. -12    eight sizes, for chapter 11            1 CPU core, 2 to 57 min  data/results/ladder.json
text-emoji-var     emoji from captions, a prefix, 2.0 M      1 CPU core, an hour     not run yet
text-emoji-var-cross  the same by cross-attention          1 CPU core, an hour     not run yet
text-emoji-gpt     the same in raster order, Llama style     1 CPU core, an hour     not run yet
colour-var         the same of 72 groups and styles          1 CPU core, an hour     not run yet
cifar32            CIFAR-10, 41 M parameters                 1 RTX 3090, 6 hours     not run yet
folder128          100,000 photographs at 128 pixels, 41 M   1 RTX 3090, 11 hours    not run yet
var-d16            ImageNet 256 x 256, 310 M parameters      16 A100, 2.5 days       FID 3.30 (paper, not run here)
var-d20            the same, 600 M                           not published           FID 2.57 (paper, not run here)
var-d24            the same, 1.0 B                           not published           FID 2.09 (paper, not run here)
var-d30            the same, 2.0 B                           not published           FID 1.92 (paper, not run here)
var-d36-s          ImageNet 512 x 512, 2.4 B, shared AdaLN   not published           FID 2.63 (paper, not run here)
llamagen-b-384     LlamaGen, raster order, 384 pixels, 111 M see below               FID 6.09 (paper, not run here)
llamagen-l-384     the same, 343 M                           see below               FID 3.07 (paper, not run here)
llamagen-xl-384    the same, 775 M                           see below               FID 2.62 (paper, not run here)
llamagen-xxl-384   the same, 1.4 B                           see below               FID 2.34 (paper, not run here)
llamagen-3b-384    the same, 3.1 B                           see below               FID 2.18 (paper, not run here)
================== ========================================= ======================= ================================

Each side of the duel also has a preset for the larger emoji world, duel-emoji-var and so on, of 1.4 million
parameters. Each LlamaGen size also has a preset for 256 pixels, llamagen-b-256 and so on; the three larger ones are
trained for 50 epochs there, not for 300. LlamaGen's authors give 8, 8, 16, 32 and 32 A100 for 1, 2, 3, 4 and 5 days,
and say neither at which resolution nor for how many epochs. Hours of cifar32 and folder128 are planned, at three
tenths of the GPU's peak.
For the digits, accuracy is the share of samples that the shipped classifier recognises as their class, and the
Frechet ratio is explained in ``evaluation.judge_digits``; 2,000 samples, for digits-smoke 400.
"""

from collections.abc import Iterable, Mapping

from minivar.presets.base import PresetError
from minivar.presets.digits import digits
from minivar.presets.duel import duels
from minivar.presets.emoji import emoji
from minivar.presets.folder import folder_smoke
from minivar.presets.images import training_set, validation_set
from minivar.presets.ladder import ladder
from minivar.presets.llamagen import SIZES, llamagen
from minivar.presets.one_gpu import cifar32, folder128
from minivar.presets.overrides import override, parse_settings
from minivar.presets.text import text_emoji
from minivar.presets.var import PUBLISHED, published
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.training.config import Preset

__all__ = [
    "PRESETS",
    "Preset",
    "PresetError",
    "RasterSamplingConfig",
    "SamplingConfig",
    "get",
    "parse_settings",
    "training_set",
    "validation_set",
]

PRESETS: dict[str, Preset] = {
    # steps of the tokenizer and of the transformer
    "digits-smoke": digits("digits-smoke", 375, 225, checkpoint_every=250, validate_every=50),
    "digits": digits("digits", 1300, 1600, views=4),
    "digits-long": digits("digits-long", 4000, 10_000, views=16, rates=(8e-3, 8e-3), hold=0.05, checkpoint_every=250),
    "emoji": emoji("emoji", 3394, 27_152),
    "folder-smoke": folder_smoke(),
    **duels(),
    **ladder(),
    **text_emoji(),
    "cifar32": cifar32(),
    "folder128": folder128(),
    **{name: published(name) for name in PUBLISHED},
    **{f"llamagen-{size}-{pixels}": llamagen(size, pixels) for size in SIZES for pixels in (256, 384)},
}


def get(name: str, overrides: Mapping[str, object] | Iterable[str] = ()) -> Preset:
    """The preset ``name`` with ``overrides``, dotted field names to values: ``{"model_train.epochs": 2}``.

    They may also be texts, as the command line takes them: ``["model_train.epochs=2", "model.schedule=1,2,4"]``.
    Raises ``PresetError`` for an unknown preset or field, a value of the wrong type, or numbers that cannot be meant.
    """
    if name not in PRESETS:
        raise PresetError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    values = overrides if isinstance(overrides, Mapping) else parse_settings(preset, overrides or ())
    preset = override(preset, values)
    if preset.tokenizer.image_size is None:
        raise PresetError("A run reads images of one size: expected a tokenizer.image_size, got none.")
    return preset
