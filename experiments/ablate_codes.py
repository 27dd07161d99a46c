"""LlamaGen's ablation of code dimension and codebook size (arXiv 2406.06525), in miniature on the digits.

python experiments/ablate_codes.py             # 10 settings, 2 seeds, about 2 minutes each on one core; resumes

Every tokenizer has the nets of the preset duel-llamagen with 64 channels before the codes, is trained on the 8,000
digits for 3 epochs, and is judged on the 2,000 held-out ones: mean squared error (pixels in [-1, 1]), share of the
codebook that occurs in their 98,000 tokens, and perplexity of the codes. Dead codes are not revived, as in LlamaGen.
Writes data/results/codes.json, which chapter 01 shows.
"""

import dataclasses
import json

import torch

from minivar import checkpoints, data, evaluation, files, presets, training
from minivar.tokenizer import VQVAE
from minivar.training import TokenizerTask

ROOT = data.DATA_ROOT
DIMENSIONS = [(dim, 1024, True) for dim in (256, 32, 8, 4, 2)]
SIZES = [(8, size, True) for size in (64, 256, 4096)]
EUCLIDEAN = [(dim, 1024, False) for dim in (256, 8)]


def main() -> None:
    base = presets.get("duel-llamagen")
    images, heldout = data.load("digits", "train+validation"), data.load("digits", "heldout").batch(slice(None))[0]
    rows = []
    for seed in (0, 1):
        for dim, size, l2_norm in DIMENSIONS + SIZES + EUCLIDEAN:
            shape = {"code_dim": dim, "codebook_size": size, "l2_norm_codes": l2_norm, "z_channels": 64}
            config = dataclasses.replace(base.tokenizer, **shape)
            recipe = dataclasses.replace(base.tokenizer_train, epochs=3, seed=seed)
            torch.manual_seed(seed)
            model = VQVAE(config)
            out = ROOT.parent / "runs" / "codes" / f"dim{dim}-size{size}-{'sphere' if l2_norm else 'plain'}-{seed}"
            task = TokenizerTask(model, images, revive_every=0)
            training.fit(task, recipe, out, progress=False)
            model, _ = checkpoints.load(out / "tokenizer.safetensors", "VQVAE")
            tokens = torch.cat([model.encode(part)[0] for part in heldout.split(500)])
            usage = evaluation.codebook_usage([tokens], size)[0]
            mse = evaluation.reconstruction_error(model, heldout)
            row = {"dim": dim, "size": size, "l2_norm": l2_norm, "seed": seed, "mse": mse, **usage}
            rows.append(row)
            print({key: round(value, 4) for key, value in row.items()}, flush=True)
    text = json.dumps({"steps": 375, "batch": 64, "rows": rows}, indent=1) + "\n"
    files.write_atomically(ROOT / "results" / "codes.json", lambda path: path.write_text(text))


if __name__ == "__main__":
    main()
