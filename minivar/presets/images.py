"""The images that a preset trains on, and those that say when it has learnt enough."""

from pathlib import Path

from minivar import data
from minivar.models import caption_shape
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
        images = emoji_world(preset, images, stage)
    elif preset.views > 1 and not isinstance(images, data.ArraySet):
        raise data.DataError(
            f"Views are for datasets held in memory; got views={preset.views} for {preset.dataset!r}."
        )
    elif preset.views > 1:
        images = in_views(preset, images)
    return images


def captions_of(preset: Preset, stage: str) -> bool:
    """Whether the images of a stage need captions."""
    return stage == "model" and caption_shape(preset.model) is not None


def emoji_world(preset: Preset, images: data.ArraySet, stage: str) -> data.ArraySet:
    """Drawings called by group and style or, for a model of captions, by those, which are the same in all views."""
    images = data.with_colours(images) if captions_of(preset, stage) else data.by_style(images)
    images = data.mirrored_where_it_suits(images) if preset.mirror else images
    images = data.jittered(images, preset.views, *preset.jitter) if preset.views > 1 else images
    return data.captioned(images) if captions_of(preset, stage) else images


def in_views(preset: Preset, images: data.ArraySet) -> data.ArraySet:
    """As many versions of each image as the preset says."""
    if preset.dataset == "cifar10":  # turned photographs would have black corners
        if preset.views != 2:
            raise data.DataError(f"An image of cifar10 and its mirror image are 2 views; got views={preset.views}.")
        return data.mirrored(images)
    if preset.dataset == "emoji":
        return data.emoji_views(images, preset.views)
    return data.jittered(images, preset.views, *preset.jitter)


def validation_set(preset: Preset, root: Path | str | None = None, stage: str = "tokenizer") -> data.ImageSet | None:
    """The images that choices are made on, as they are; None where a folder or a list of shards has no such part.

    Emoji are called by three kinds of name in turn, as in training, hence three views of them.
    """
    if preset.dataset in ON_DISK and (root is None or data.find_split(Path(root), "validation") is None):
        return None
    images = _load(preset, "validation", root, {})
    if preset.dataset in EMOJI_WORLD:
        return data.captioned(images) if captions_of(preset, stage) else data.by_style(images)
    return data.emoji_views(images, 3) if preset.dataset == "emoji" and preset.views > 1 else images


def _load(preset: Preset, split: str, root: Path | str | None, options: dict[str, str]) -> data.ImageSet:
    channels, side = preset.tokenizer.nets.image_channels, preset.tokenizer.image_size[0]
    return data.load(preset.dataset, split, root, side, channels, **options)
