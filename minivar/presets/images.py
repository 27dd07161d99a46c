"""The images that a preset trains on."""

from pathlib import Path

from minivar import data
from minivar.training.config import Preset


def training_set(preset: Preset, root: Path | str | None = None) -> data.ImageSet:
    """The training images of a preset, with as many views of each as it asks for."""
    channels, side = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size[0]
    images = data.load(preset.dataset, "train", root, side, channels)
    if preset.views == 1:
        return images
    if not isinstance(images, data.ArraySet):
        raise data.DataError(
            f"Views are for datasets held in memory; got views={preset.views} for {preset.dataset!r}."
        )
    return (data.emoji_views if preset.dataset == "emoji" else data.jittered)(images, preset.views)
