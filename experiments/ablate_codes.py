"""LlamaGen's ablation of code dimension and codebook size (arXiv 2406.06525), in miniature on the digits.

python experiments/ablate_codes.py        # 11 settings, 2 seeds, 2 to 4 minutes each on one core; resumes
python experiments/ablate_codes.py 1      # one of the seeds only, so that two can be trained side by side

Every tokenizer has the nets of the preset duel-llamagen with 64 channels before the codes, is trained on the 8,000
digits for 3 epochs, and is judged on the 2,000 held-out ones: mean squared error (pixels in [-1, 1]), share of the
codebook that occurs in their 98,000 tokens, and perplexity of the codes. Dead codes are not revived, as in LlamaGen.
Codes that are compared on the sphere begin on it, as in LlamaGen ("sphere"). To compare, those of one setting begin
within 1 / V of zero ("short"), as those without projection do ("plain"): how far a step of the optimiser turns a code
depends on its length.
Writes data/results/codes.json, which chapter 01 shows.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, files, presets, training
from minivar.tokenizer import VQVAE
from minivar.training import TokenizerTask

SHAPES = [(dim, 1024) for dim in (256, 32, 8, 4, 2)] + [(8, size) for size in (64, 256, 4096)]
SETTINGS = [(*shape, "sphere") for shape in SHAPES]
SETTINGS += [(8, 1024, "short"), (256, 1024, "plain"), (8, 1024, "plain")]
SEEDS = (0, 1)


def main() -> None:
    for seed in [int(word) for word in sys.argv[1:]] or SEEDS:
        for setting in SETTINGS:
            train(*setting, seed)
            print(*setting, seed, flush=True)
    if not sys.argv[1:]:
        rows = [judge(*setting, seed) for seed in SEEDS for setting in SETTINGS]
        text = json.dumps({"steps": 375, "batch": 64, "rows": rows}, indent=1) + "\n"
        files.write_atomically(data.DATA_ROOT / "results" / "codes.json", lambda path: path.write_text(text))


def folder(dim: int, size: int, kind: str, seed: int) -> Path:
    return data.DATA_ROOT.parent / "runs" / "codes" / f"{kind}-dim{dim}-size{size}-seed{seed}"


def train(dim: int, size: int, kind: str, seed: int) -> None:
    """One tokenizer; where it is trained already, nothing happens."""
    base = presets.get("duel-llamagen")
    shape = {"code_dim": dim, "codebook_size": size, "l2_norm_codes": kind != "plain", "z_channels": 64}
    torch.manual_seed(seed)
    model = VQVAE(dataclasses.replace(base.tokenizer, **shape))
    if kind == "short":
        torch.nn.init.uniform_(model.quantizer.codebook, -1 / size, 1 / size)
    task = TokenizerTask(model, data.load("digits", "train+validation"), revive_every=0)
    recipe = dataclasses.replace(base.tokenizer_train, epochs=3, seed=seed)
    training.fit(task, recipe, folder(dim, size, kind, seed), progress=False)


def judge(dim: int, size: int, kind: str, seed: int) -> dict:
    """Its error and the health of its codebook on held-out digits."""
    model, _ = checkpoints.load(folder(dim, size, kind, seed) / "tokenizer.safetensors", "VQVAE")
    images = data.load("digits", "heldout").batch(slice(None))[0]
    tokens = torch.cat([model.encode(part)[0] for part in images.split(500)])
    usage = evaluation.codebook_usage([tokens], size)[0]
    mse = evaluation.reconstruction_error(model, images)
    return {"dim": dim, "size": size, "kind": kind, "seed": seed, "mse": mse, **usage}


if __name__ == "__main__":
    main()
