"""One training of one side or tokenizer: its name, its numbers, what is kept of it."""

import dataclasses
import math

from experiments.jobs import Kept, all_results, minutes, of_tokenizer, what_broke
from experiments.rivals import scoring
from minivar import checkpoints, data, models, presets, training
from minivar.scales import ScaleSchedule
from minivar.training import Preset, TrainingError

RUNS = data.DATA_ROOT.parent / "runs" / "rivals"
RESULTS = data.DATA_ROOT / "results" / "rivals.json"
TWO_BY_TWO = ("var", "var-prefix", "raster", "raster-prefix")
SIDES = (*TWO_BY_TWO, "llamagen", "gpt2", "maskgit", "dit", "dit-pixels")
RATES, RATE_SEED = (4e-3, 8e-3, 16e-3), 99
RIVALS = ("var", "raster", "llamagen", "gpt2", "maskgit", "dit", "dit-pixels")  # of the emoji
WORLDS = {"digits": SIDES, "emoji": RIVALS}
TOKENIZERS = {"multi-scale": "var", "single": "llamagen"}  # a side that has it
FIVE_SEEDS = (*TWO_BY_TWO, "llamagen", "gpt2")  # of the digits; all others have three
# The tokenizer's own questions (chapter 04): what differs from the side "var", whose runs they are compared with.
VARIANTS: dict[str, dict[str, object]] = {
    "no-revival": {"revive_below": 0.0},
    "no-phi": {"tokenizer.phi_ratio": 0.0},
    "own-codes": {"tokenizer.own_codes": True},  # 128 for each scale
    "scales-2-4-7": {field: ScaleSchedule((2, 4, 7)) for field in ("tokenizer.schedule", "model.schedule")},
}
# Rungs of the paper's ladder of ablations that need a training; the tokenizers are those of the side "var".
RUNGS: dict[str, dict[str, object]] = {
    "no-attention-norm": {"model.l2_norm_attention": False},
    "larger": {"model.depth": 6},
}
# Chapter 16: what came after VAR, in miniature; with the tokenizers of the side "var" too.
AFTER: dict[str, dict[str, object]] = {
    **{f"mistaken-{share}": {"model.mistaken": share / 100} for share in (10, 30)},
    "in-parts": {"model.revealed": 0.5},
}
SCORED = ("seeds", "depth", "rungs", "time", "variants", "after")  # parts of the plan
SUFFIXES = {"depth": "-shallow", "time": "-time"}  # of names
# Matched depth, which is matched FLOPs: AdaLN costs parameters, but hardly any arithmetic.
SHALLOW = {"var-prefix": 4.0, "raster-prefix": 434}


class Here(Kept):
    """Kept among the runs of this experiment."""

    root = property(lambda self: RUNS)


@dataclasses.dataclass(frozen=True)
class TokenizerRun(Here):
    """One training of one of the two tokenizers, which all sides share."""

    side: str  # one of those that have it
    seed: int
    part: str = "tokenizers"
    world: str = "digits"
    variant: str = ""

    @property
    def preset(self) -> Preset:
        return presets.get(preset_name(self), {"tokenizer_train.seed": self.seed, **VARIANTS.get(self.variant, {})})

    @property
    def name(self) -> str:
        kind = self.variant or self.preset.tokenizer.quantizer
        return f"{prefix(self)}tokenizer-{kind}-{self.seed}"

    ready = True

    def load(self, progress: bool = False):
        """The tokenizer, trained if it is not there."""
        if self.is_here:
            return checkpoints.load(self.folder / "tokenizer.safetensors", "VQVAE")[0]
        images = presets.training_set(self.preset)
        return training.train_tokenizer(self.preset, images, self.folder, progress=progress).eval()

    def work(self) -> dict[str, object]:
        """Its error and the health of its codebook on held-out images."""
        tokenizer, images = self.load(), data.load(self.preset.dataset, "heldout").batch(slice(None))[0]
        return {
            **dataclasses.asdict(self),
            **of_tokenizer(tokenizer, images, self.folder),
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
        }


@dataclasses.dataclass(frozen=True)
class Run(Here):
    """One training of one side."""

    side: str
    seed: int
    rate: float
    part: str = "seeds"  # of the plan
    world: str = "digits"
    variant: str = ""
    longer: float = 1.0  # part "time": so many times as many images, for as many minutes as VAR has

    @property
    def name(self) -> str:
        if self.variant:
            return f"{self.side}-{self.variant}-seed{self.seed}"
        if self.part == "rates":
            return f"{prefix(self)}{self.side}-rate{self.rate * 1000:g}"
        return f"{prefix(self)}{self.side}{SUFFIXES.get(self.part, '')}-seed{self.seed}"

    @property
    def preset(self) -> Preset:
        changes: dict[str, object] = {"model_train.seed": self.seed, "model_train.base_lr": self.rate}
        changes |= {"tokenizer_train.seed": self.seed % 3, **(VARIANTS | RUNGS | AFTER).get(self.variant, {})}
        length = 1 / 3 if self.part == "rates" else self.longer
        changes["model_train.epochs"] = presets.get(preset_name(self)).model_train.epochs * length
        if self.part == "depth":
            hidden = "mlp_ratio" if self.side.startswith("var") else "hidden"
            changes |= {"model.depth": 3, f"model.{hidden}": SHALLOW[self.side]}
        return presets.get(preset_name(self), changes)

    @property
    def tokenizer(self) -> TokenizerRun | None:
        """The one it needs; none for pixels."""
        kind = self.preset.tokenizer.quantizer
        if self.side == "dit-pixels":
            return None
        variant = self.variant if self.variant in VARIANTS else ""
        return TokenizerRun(TOKENIZERS[kind], self.seed % 3, world=self.world, variant=variant)

    @property
    def ready(self) -> bool:
        """Whether its tokenizer is trained, on this machine."""
        return self.tokenizer is None or self.tokenizer.is_here

    def work(self) -> dict[str, object]:
        """Losses and minutes, and scores where they are asked for; too high a rate: no other is as good as none."""
        what = dataclasses.asdict(self)
        try:
            result = {**what, **self.train()}
        except TrainingError as error:
            if self.part not in ("rates", "rungs"):
                raise
            return {**what, "validation_loss": math.inf, "error": what_broke(error)}
        if self.part in SCORED:
            result["scores"] = scoring.scores_of(self)
            result["ratio"] = scoring.mean_ratio(result["scores"])
        return result

    def train(self) -> dict[str, object]:
        """Losses and minutes."""
        preset, folder = self.preset, self.folder
        tokenizer = self.tokenizer.load() if self.tokenizer else training.train_tokenizer(preset, None, folder)
        options = {"validation": presets.validation_set(preset), "progress": False}
        training.train_model(preset, tokenizer, presets.training_set(preset), folder, **options)
        phase = models.GENERATORS[type(preset.model)].__name__.lower()
        log = [entry for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == phase]
        validation = [(e["step"], e["validation_loss"]) for e in log if "validation_loss" in e]
        losses = [loss for _, loss in validation]
        return {
            "minutes": minutes(folder, phase),
            "loss": log[-1]["loss"],
            "validation_loss": min(losses) if preset.model_train.keep_best else losses[-1],
            "validation": validation,
        }


def prefix(run: Run | TokenizerRun) -> str:
    """What the names of a world's runs begin with."""
    return "" if run.world == "digits" else f"{run.world}-"


def preset_name(run: Run | TokenizerRun) -> str:
    """The preset that a run is made of."""
    return f"duel-{prefix(run)}{run.side}"


def results() -> dict[str, dict]:
    """Of all finished runs by name, collected or not."""
    return all_results(RESULTS, RUNS)
