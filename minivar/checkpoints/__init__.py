"""Models on disk: minivar's own format, and the published files of VAR, LlamaGen and DiT.

No pickle is ever executed: published files are read with ``weights_only=True``, our own are safetensors (``files``).
"""

from minivar.checkpoints.dit import from_dit
from minivar.checkpoints.flan_t5 import caption_features
from minivar.checkpoints.hub import MODELS, PublishedModel, find_published, open_folder, open_published
from minivar.checkpoints.llamagen import from_llamagen_gpt, from_llamagen_tokenizer
from minivar.checkpoints.own import FILES, KINDS, TEXT_FILE, check_pair, check_text, load, load_pair, load_text, save
from minivar.checkpoints.release import upload, write_release
from minivar.checkpoints.start import load_any_pair
from minivar.checkpoints.var import from_var, to_var
from minivar.files import CheckpointError

__all__ = [
    "FILES",
    "KINDS",
    "MODELS",
    "TEXT_FILE",
    "CheckpointError",
    "PublishedModel",
    "caption_features",
    "check_pair",
    "check_text",
    "find_published",
    "from_dit",
    "from_llamagen_gpt",
    "from_llamagen_tokenizer",
    "from_var",
    "load",
    "load_any_pair",
    "load_pair",
    "load_text",
    "open_folder",
    "open_published",
    "save",
    "to_var",
    "upload",
    "write_release",
]
