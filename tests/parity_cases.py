"""The parity cases of the published VAR code: configuration, published results, and models with the same weights.

``tests/data/README.md`` says what each result is; ``parity_weights`` redraws the weights.
"""

import json
from pathlib import Path

import numpy as np
import parity_weights
import torch

from minivar import checkpoints

DATA = Path(__file__).parent / "data"
CASES = ("var_adaln", "var_shared_adaln", "var_plain_attention")


class Case:
    """One parity case: its configuration, its published results, and the models loaded from its weights."""

    def __init__(self, name: str) -> None:
        self.config = json.loads((DATA / f"{name}.json").read_text())
        with np.load(DATA / f"{name}.npz") as arrays:
            self.results = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        self.vae_state, self.var_state = (self.state(self.config[key]) for key in ("vae_keys", "var_keys"))
        self.tokenizer, self.model = checkpoints.from_var(self.vae_state, self.var_state, self.config["scales"])
        image = parity_weights.image(self.config["image_shape"], self.config["image_seed"])
        self.images, self.labels = torch.from_numpy(image), torch.tensor(self.config["labels"])
        options = self.config["sampling"]
        self.seed = options["g_seed"]
        self.options = {key: options[key] for key in ("cfg", "top_k", "top_p")}

    def state(self, keys: dict) -> dict[str, torch.Tensor]:
        """The learned entries of a checkpoint; constants of the architecture are left to ``constants``."""
        return {
            key: torch.from_numpy(parity_weights.draw(key, shape, self.config["seed"]))
            for key, shape in keys.items()
            if key.split(".")[-1] not in parity_weights.FIXED
        }

    def constants(self) -> dict[str, torch.Tensor]:
        """The constants of a published transformer file, from their definition."""
        counts = [side * side for side in self.config["scales"]]
        level = torch.tensor([k for k, count in enumerate(counts) for _ in range(count)])
        bias = torch.zeros(len(level), len(level))
        bias[level[:, None] < level[None, :]] = -torch.inf
        width, depth = self.config["width"], self.config["depth"]
        zero = {f"blocks.{i}.attn.zero_k_bias": torch.zeros(width) for i in range(depth)}
        return {"lvl_1L": level[None], "attn_bias_for_masking": bias[None, None], **zero}

    def usage(self, scales: int | None = None) -> dict[str, torch.Tensor]:
        """Codebook statistics as the published tokenizer file carries them."""
        shape = (scales or len(self.config["scales"]), self.config["codebook_size"])
        return {"quantize.ema_vocab_hit_SV": torch.rand(shape, generator=torch.Generator().manual_seed(0))}
