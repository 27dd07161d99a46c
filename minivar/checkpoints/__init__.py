"""Checkpoints: minivar's own format, and the published files of VAR and LlamaGen.

No pickle is ever executed: published files are read with ``weights_only=True``, our own are safetensors.
"""

from minivar.checkpoints.llamagen import from_llamagen_gpt, from_llamagen_tokenizer
from minivar.checkpoints.own import (
    CheckpointError,
    check_pair,
    config_from_dict,
    load,
    load_pair,
    read_tensors,
    save,
    sha256,
    write_atomically,
    write_tensors,
)
from minivar.checkpoints.var import from_var, to_var

__all__ = [
    "CheckpointError",
    "check_pair",
    "config_from_dict",
    "from_llamagen_gpt",
    "from_llamagen_tokenizer",
    "from_var",
    "load",
    "load_pair",
    "read_tensors",
    "save",
    "sha256",
    "to_var",
    "write_atomically",
    "write_tensors",
]
