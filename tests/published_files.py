"""Small pairs in the published layouts, drawn at random, rows of the table for them, and a Hub that is a folder."""

import argparse
from pathlib import Path

import torch
from conftest import SCHEDULE, var_config, wake
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from minivar import checkpoints, sampling
from minivar.checkpoints import PublishedModel
from minivar.checkpoints.llamagen import GPT_NAMES, TOKENIZER_NAMES
from minivar.checkpoints.published import translate
from minivar.models import GPT, VAR, GPTConfig
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.tokenizer import VQVAE, NetConfig, TokenizerConfig

NETS = NetConfig(base_channels=32, multipliers=(1, 1, 1, 1, 1), res_blocks=1)
CODES = {"codebook_size": 16, "code_dim": 4}
VAR_ROW = PublishedModel(
    "tiny-var",
    "someone/tiny-var",
    ("vae_ch160v4096z32.pth", "var_d16.pth"),
    (1000, 1000),
    (2, 32),
    64,
    SamplingConfig(cfg=2.0, top_k=12, top_p=0.9),
    SCHEDULE,
)
GPT_ROW = PublishedModel(
    "tiny-gpt",
    "someone/tiny-gpt",
    ("vq_ds16_c2i.pt", "c2i_B_384.pt"),
    (1000, 1000),
    (1, 768),
    64,
    RasterSamplingConfig(cfg=2.0),
)
ROWS = (VAR_ROW, GPT_ROW)


def var_pair(**other) -> tuple[VQVAE, VAR]:
    """Small enough to be drawn at random, with the 1,000 classes; ``other`` is the transformer's."""
    torch.manual_seed(0)
    tokenizer = wake(VQVAE(TokenizerConfig(image_size=64, nets=NETS, schedule=SCHEDULE, **CODES)))
    return tokenizer, wake(VAR(var_config(**{"num_classes": 1000, **other})))


def gpt_pair(nets: NetConfig = NETS, **other) -> tuple[VQVAE, GPT]:
    """The same in raster order."""
    torch.manual_seed(0)
    tokenizer = VQVAE(
        TokenizerConfig(
            image_size=None, nets=nets, schedule=None, quantizer="single", z_channels=32, quant_conv_kernel=1, **CODES
        )
    )
    config = {"depth": 1, "width": 768, "heads": 12, "grid": None, "codebook_size": 16, "num_classes": 1000}
    return wake(tokenizer), wake(GPT(GPTConfig(**{**config, "hidden": 64, **other})))


def llamagen_states(tokenizer: VQVAE, model: GPT) -> tuple[dict, dict]:
    """The published names of both, in which queries, keys and values of the tokenizer are apart."""
    state = {}
    names = translate(tokenizer, TOKENIZER_NAMES)
    for ours, value in tokenizer.state_dict().items():
        if ".qkv." in ours:
            state |= {names[ours].replace(".qkv.", f".{k}."): part for k, part in zip("qkv", value.chunk(3))}
        elif "usage" not in ours:
            state[names[ours]] = value
    names = translate(model, GPT_NAMES)
    return state, {names[ours]: value for ours, value in model.state_dict().items()}


def write(folder: Path, row: PublishedModel, tokenizer: VQVAE, model: VAR | GPT) -> Path:
    """Both files of a row, as their authors' trainers write them."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, VAR):
        states = checkpoints.to_var(tokenizer, model)
    else:
        rest = {"steps": 3, "args": argparse.Namespace(lr=1e-4)}
        states = [{"model": state, **rest} for state in llamagen_states(tokenizer, model)]
    for file, state in zip(row.files, states):
        torch.save(state, folder / file)
    return folder


class Hub:
    """In place of the Hub: repositories are folders, and a cache is filled from them."""

    def __init__(self, cache: Path) -> None:
        self.repositories, self.cache, self.reachable, self.asked = {}, cache, True, []

    def download(self, repo_id, filename, *, library_name, local_files_only):
        self.asked.append(filename)
        cached = self.cache / repo_id / filename
        if cached.exists():
            return str(cached)
        if local_files_only or not self.reachable:
            raise LocalEntryNotFoundError("Cannot find the requested files.\nMore about it.")
        if not (self.repositories[repo_id] / filename).exists():
            raise EntryNotFoundError("404 Client Error.\n\nEntry Not Found for url.")
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes((self.repositories[repo_id] / filename).read_bytes())
        return str(cached)


def draw(tokenizer, model, header, labels=(207, 3)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return sampling.generate(model, tokenizer, torch.tensor(labels), generator, **header["sampling"]).images
