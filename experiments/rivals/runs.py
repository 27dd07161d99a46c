"""One training of one side or tokenizer: its name, its numbers, what is kept of it."""

import dataclasses
import json
from pathlib import Path

from experiments.head_to_head import minutes
from minivar import checkpoints, data, evaluation, models, presets, training
from minivar.training import Preset

RUNS = data.DATA_ROOT.parent / "runs" / "rivals"
RESULTS = data.DATA_ROOT / "results" / "rivals.json"
TWO_BY_TWO = ("var", "var-prefix", "raster", "raster-prefix")
SIDES = (*TWO_BY_TWO, "llamagen", "gpt2", "maskgit", "dit", "dit-pixels")
RATES, RATE_SEED = (4e-3, 8e-3, 16e-3), 99
TOKENIZERS = {"multi-scale": "var", "single": "llamagen"}  # a side that has it
SEEDS = {side: 5 if side in (*TWO_BY_TWO, "llamagen", "gpt2") else 3 for side in SIDES}
# Matched depth, which is matched FLOPs: AdaLN costs parameters, but hardly any arithmetic.
SHALLOW = {"var-prefix": 4.0, "raster-prefix": 434}


@dataclasses.dataclass(frozen=True)
class TokenizerRun:
    """One training of one of the two tokenizers, which all sides share."""

    side: str  # one of those that have it
    seed: int
    part: str = "tokenizers"

    @property
    def preset(self) -> Preset:
        return presets.get(f"duel-{self.side}", {"tokenizer_train.seed": self.seed})

    @property
    def name(self) -> str:
        return f"tokenizer-{self.preset.tokenizer.quantizer}-{self.seed}"

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    def load(self, progress: bool = False):
        """The tokenizer, trained if it is not there."""
        if (self.folder / "result.json").is_file():
            return checkpoints.load(self.folder / "tokenizer.safetensors", "VQVAE")[0]
        images = presets.training_set(self.preset)
        return training.train_tokenizer(self.preset, images, self.folder, progress=progress).eval()

    def train(self) -> dict[str, object]:
        """Its error and the health of its codebook on the held-out digits."""
        tokenizer, images = self.load(), data.load("digits", "heldout").batch(slice(None))[0]
        return {
            "minutes": minutes(self.folder, "tokenizer"),
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "mse": evaluation.reconstruction_error(tokenizer, images),
            "codes": evaluation.codebook_usage(tokenizer.encode(images), tokenizer.config.codebook_size),
        }


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of one side."""

    side: str
    seed: int
    rate: float
    part: str = "seeds"  # of the plan

    @property
    def name(self) -> str:
        if self.part == "rates":
            return f"{self.side}-rate{self.rate * 1000:g}"
        return f"{self.side}{'-shallow' if self.part == 'depth' else ''}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    @property
    def preset(self) -> Preset:
        changes: dict[str, object] = {"model_train.seed": self.seed, "model_train.base_lr": self.rate}
        changes["tokenizer_train.seed"] = self.seed % 3
        if self.part == "rates":
            changes["model_train.epochs"] = presets.get(f"duel-{self.side}").model_train.epochs / 3
        if self.part == "depth":
            hidden = "mlp_ratio" if self.side.startswith("var") else "hidden"
            changes |= {"model.depth": 3, f"model.{hidden}": SHALLOW[self.side]}
        return presets.get(f"duel-{self.side}", changes)

    @property
    def tokenizer(self) -> TokenizerRun | None:
        """The one it needs; none for pixels."""
        kind = self.preset.tokenizer.quantizer
        return None if self.side == "dit-pixels" else TokenizerRun(TOKENIZERS[kind], self.seed % 3)

    def train(self) -> dict[str, object]:
        """Losses and minutes."""
        preset, folder = self.preset, self.folder
        tokenizer = self.tokenizer.load() if self.tokenizer else training.train_tokenizer(preset, None, folder)
        options = {"validation": presets.validation_set(preset), "progress": False}
        training.train_model(preset, tokenizer, presets.training_set(preset), folder, **options)
        phase = models.GENERATORS[type(preset.model)].__name__.lower()
        log = [entry for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == phase]
        validation = [(e["step"], e["validation_loss"]) for e in log if "validation_loss" in e]
        return {
            "minutes": minutes(folder, phase),
            "loss": log[-1]["loss"],
            "validation_loss": validation[-1][1],
            "validation": validation,
        }


def results() -> dict[str, dict]:
    """Of all finished runs by name, collected or not."""
    found = json.loads(RESULTS.read_text())["runs"] if RESULTS.is_file() else {}
    for path in sorted(RUNS.glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    return found
