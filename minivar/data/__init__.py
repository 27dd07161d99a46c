"""Images and labels in: the first room, where data becomes batches of (image in [-1, 1], label).

Embedded data (``data/*.npz``) needs no download; what lies on a disk is read by ``folders`` and ``shards``, ahead of
its time by the processes of ``feeding``. All of it answers the same few questions, those of ``base.Dataset``.
"""

from minivar.data.arrays import ArraySet, Labels
from minivar.data.base import (
    DATA_ROOT,
    IMAGE_SUFFIXES,
    SPLITS,
    DataError,
    Dataset,
    ImageSet,
    to_float,
    to_uint8,
    view_of,
)
from minivar.data.captions import Captioned, captioned
from minivar.data.colours import colour_of, with_colours
from minivar.data.compositions import load_quartets
from minivar.data.embedded import load_digits, load_emoji
from minivar.data.emoji_world import by_style, emoji_listing, load_emoji_world
from minivar.data.feeding import Feed, default_workers
from minivar.data.folders import FolderSet
from minivar.data.imagenet import class_names, find_class
from minivar.data.loading import find_split, load
from minivar.data.masks import box_mask, brush_mask, check_mask, read_mask, read_picture
from minivar.data.pictures import CROPS, central_square
from minivar.data.shards import ShardSet, write_shards
from minivar.data.views import balanced, emoji_views, jitter, jittered, mirrored, mirrored_where_it_suits
from minivar.data.words import Vocabulary, common_words

__all__ = [
    "CROPS",
    "DATA_ROOT",
    "IMAGE_SUFFIXES",
    "SPLITS",
    "ArraySet",
    "Captioned",
    "DataError",
    "Dataset",
    "Feed",
    "FolderSet",
    "ImageSet",
    "Labels",
    "ShardSet",
    "Vocabulary",
    "balanced",
    "box_mask",
    "brush_mask",
    "by_style",
    "captioned",
    "central_square",
    "check_mask",
    "class_names",
    "colour_of",
    "common_words",
    "default_workers",
    "emoji_listing",
    "emoji_views",
    "find_class",
    "find_split",
    "jitter",
    "jittered",
    "load",
    "load_digits",
    "load_emoji",
    "load_emoji_world",
    "load_quartets",
    "mirrored",
    "mirrored_where_it_suits",
    "read_mask",
    "read_picture",
    "to_float",
    "to_uint8",
    "view_of",
    "with_colours",
    "write_shards",
]
