"""The images that a preset trains on, and those that say when it has learnt enough."""

from pathlib import Path

from minivar import data
from minivar.training import Preset

ON_DISK = ("folder", "shards")  # read when they are asked for
EMOJI_WORLD = ("emoji-32", "emoji-64")


def training_set(preset: Preset, root: Path | str | None = None, stage: str = "tokenizer") -> data.ImageSet:
    """The training images of a preset, with as many views of each as it asks for.

    Folders and shards are cut as the ``stage``, "tokenizer" or "model", wants them. Raises ``DataError`` for views
    that a dataset does not have.
    """
    crop = {"crop": preset.tokenizer_crop if stage == "tokenizer" else preset.model_crop}
    images = _load(preset, "train", root, crop if preset.dataset in ON_DISK else {})
    if preset.dataset in EMOJI_WORLD:
        images = data.by_style(images)
    if preset.views == 1:
        return images
    if not isinstance(images, data.ArraySet):
        raise data.DataError(
            f"Views are for datasets held in memory; got views={preset.views} for {preset.dataset!r}."
        )
    if preset.dataset == "cifar10":  # turned photographs would have black corners
        if preset.views != 2:
            raise data.DataError(f"An image of cifar10 and its mirror image are 2 views; got views={preset.views}.")
        return data.mirrored(images)
    return (data.emoji_views if preset.dataset == "emoji" else data.jittered)(images, preset.views)


def validation_set(preset: Preset, root: Path | str | None = None) -> data.ImageSet | None:
    """The images that choices are made on, as they are; None where a folder or a list of shards has no such part.

    Emoji are called by three kinds of name in turn, as in training, hence three views of them.
    """
    if preset.dataset in ON_DISK and (root is None or data.find_split(Path(root), "validation") is None):
        return None
    images = _load(preset, "validation", root, {})
    if preset.dataset in EMOJI_WORLD:
        return data.by_style(images)
    return data.emoji_views(images, 3) if preset.dataset == "emoji" and preset.views > 1 else images


def _load(preset: Preset, split: str, root: Path | str | None, options: dict[str, str]) -> data.ImageSet:
    channels, side = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size[0]
    return data.load(preset.dataset, split, root, side, channels, **options)
