"""The colour models of chapter 15, on the emoji world at 32 pixels: text to image in two orders, and class to image.

python -m experiments.colour train     # everything that is left; as many of these as there are cores
python -m experiments.colour collect   # results -> data/results/colour.json, pictures -> runs/colour/pictures

Needs data/checkpoints/text-emoji.safetensors and the judge beside it (python -m experiments.build_text). Two
tokenizers, one for each order. A *baseline*: the preset's VAR for three minutes. *Settings*, one at a time from those
of the preset, seed 99, a third of the steps: chosen by the loss of "validation" and "validation-pairs", nothing else.
The best of each kind that beat the preset's go together into the *orders*: VAR by a prefix, VAR by cross-attention
and GPT in three seeds each, and the class-conditional VAR in one. These are then scored, the weights with the lowest
validation loss (early stopping), on "heldout" and "heldout-pairs": losses beside that of a model that knows nothing
but how often each code occurs at each place; novelty; whether what they draw from held-out captions shows what was
asked for. Set OMP_NUM_THREADS=1. All of it resumes, also in the middle of a run (SIGTERM saves), and what is in
colour.json is not repeated. ``--smoke`` does the same in a few steps, into runs/colour-smoke.
"""

import argparse
import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.jobs import Job, Kept, all_results, minutes, of_tokenizer, what_broke, work_off, write_json
from minivar import checkpoints, data, evaluation, models, presets, training
from minivar.book import plots
from minivar.distributed import Ranks
from minivar.models import caption_shape
from minivar.training.validation import heldout_statistics

RUNS = data.DATA_ROOT.parent / "runs" / "colour"
RESULTS = data.DATA_ROOT / "results" / "colour.json"
TEXT_FOLDER = data.DATA_ROOT / "checkpoints"
STEPS, TRIAL_STEPS, SEARCH_SEED, SEEDS = 9000, 3000, 99, (0, 1, 2)
BASELINE_STEPS = 500  # about three minutes of a core
PART_OF_TRAIN = 1156  # drawings, of which the training loss is measured again, without dropout
DRAWN = 488  # images of each scored run

# One change from the preset each, by kind: the best of a kind that beats the preset's own joins the orders' settings
SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "dropout": {
        "dropout0": {"model.dropout": 0.0},
        "dropout20": {"model.dropout": 0.2},
        "drop-path20": {"model.drop_path": 0.2},
        "dropout20-drop-path20": {"model.dropout": 0.2, "model.drop_path": 0.2},
    },
    "views": {
        "views1": {"views": 1},
        "views16": {"views": 16},
        "views16-strong": {"views": 16, "jitter": (12.0, 0.15)},
        "mirror": {"mirror": True},
    },
    "width": {"width96": {"model.width": 96}, "width192": {"model.width": 192}},
    "rate": {"rate4": {"model_train.base_lr": 4e-3}, "rate16": {"model_train.base_lr": 16e-3}},
}
ORDERS = ("text-emoji-var", "text-emoji-var-cross", "text-emoji-gpt", "colour-var")


@dataclass(frozen=True)
class Size:
    """How much of everything; ``--smoke`` makes it small."""

    steps: int = STEPS
    trial_steps: int = TRIAL_STEPS
    baseline_steps: int = BASELINE_STEPS
    tokenizer_steps: int | None = None
    drawn: int = DRAWN
    images: int | None = None  # of each part of the data, at most
    views: int | None = None


SIZE = Size()


@functools.lru_cache(maxsize=12)
def drawings(part: str) -> data.ArraySet:
    """A part of the emoji world, with the colours that captions name."""
    images = data.with_colours(data.load("emoji-32", part))
    count = SIZE.images or len(images)
    extra = {key: data.Labels(labels.values[:count], labels.names) for key, labels in images.extra.items()}
    return data.ArraySet(images.images[:count], images.labels[:count], images.class_names, extra, images.background)


def called(preset: training.Preset, part: str) -> data.ArraySet:
    """The same as a model of this preset is told of them."""
    images = drawings(part)
    return data.captioned(images) if caption_shape(preset.model) else data.by_style(images)


class Here(Kept):
    """Kept among the runs of this experiment."""

    root = property(lambda self: RUNS)


@dataclass(frozen=True)
class Tokens(Here):
    """A tokenizer: "multi-scale" for VAR or "single" for GPT."""

    kind: str
    ready = True

    @property
    def name(self) -> str:
        return f"tokenizer-{self.kind}"

    def load(self):
        """The tokenizer; trained, or gone on with, if it is not there."""
        if self.is_here:
            return checkpoints.load(self.folder / "tokenizer.safetensors", "VQVAE")[0]
        preset = presets.get("text-emoji-gpt" if self.kind == "single" else "text-emoji-var")
        views = SIZE.views or preset.views
        images = data.jittered(data.by_style(drawings("train")), views, *preset.jitter)
        if SIZE.tokenizer_steps:
            epochs = SIZE.tokenizer_steps / (len(images) // preset.tokenizer_train.batch_size)
            preset = dataclasses.replace(
                preset, tokenizer_train=dataclasses.replace(preset.tokenizer_train, epochs=epochs)
            )
        options = {"validation": data.by_style(drawings("validation")), "progress": False}
        return training.train_tokenizer(preset, images, self.folder, **options).eval()

    def work(self) -> dict[str, object]:
        """Train; error and use of the codes on the validation drawings."""
        tokenizer, images = self.load(), drawings("validation").batch(slice(None))[0]
        return {"part": "tokenizer", **of_tokenizer(tokenizer, images, self.folder)}


@dataclass(frozen=True)
class Run(Here):
    """One training: of a preset, with other settings by their names in ``SETTINGS``."""

    order: str
    part: str  # "baseline", "settings" or "orders"
    settings: tuple[str, ...] = ()
    seed: int = SEARCH_SEED

    @property
    def name(self) -> str:
        return "-".join([self.part, self.order, *self.settings, f"seed{self.seed}"])

    @property
    def tokens(self) -> Tokens:
        return Tokens("single" if self.order == "text-emoji-gpt" else "multi-scale")

    @property
    def ready(self) -> bool:
        """Whether there is a tokenizer to learn with."""
        return self.tokens.is_here

    @property
    def changes(self) -> dict[str, object]:
        """Of the preset's numbers, by dotted names; what an order's model does not have is left out."""
        known = {key: value for kind in SETTINGS.values() for name, change in kind.items() if name in self.settings
                 for key, value in change.items()}  # fmt: skip
        config = presets.get(self.order).model
        return {k: v for k, v in known.items() if not k.startswith("model.") or hasattr(config, k[6:])}

    @property
    def preset(self) -> training.Preset:
        changes = dict(self.changes)
        if SIZE.views:
            changes["views"] = SIZE.views
        if self.order == "text-emoji-gpt":  # its drop_path is for VAR's blocks
            changes.pop("model.drop_path", None)
        preset = presets.get(self.order, {**changes, "model_train.seed": self.seed})
        steps = {"baseline": SIZE.baseline_steps, "settings": SIZE.trial_steps, "orders": SIZE.steps}[self.part]
        epochs = steps / (len(self.images(preset)) // preset.model_train.batch_size)
        every = {"model_train.checkpoint_every": steps, "model_train.log_every": steps} if steps < 250 else {}
        return presets.override(preset, {"model_train.epochs": epochs, **every})

    def images(self, preset: training.Preset) -> data.ArraySet:
        """What it learns from."""
        return presets.images.emoji_world(preset, drawings("train"), "model")

    def work(self) -> dict[str, object]:
        """Losses at the lowest validation loss; of the orders, everything else that is asked."""
        preset, tokenizer = self.preset, self.tokens.load()
        images, validation = self.images(preset), called(preset, "validation")
        text = text_encoder() if caption_shape(preset.model) else None
        what = {**dataclasses.asdict(self), "changes": self.changes}
        try:
            training.train_model(
                preset, tokenizer, images, self.folder, progress=False, validation=validation, text=text
            )
        except training.TrainingError as error:
            if self.part == "orders":
                raise
            worst = {"validation": math.inf, "validation-pairs": math.inf}
            return {**what, "losses": worst, "error": what_broke(error)}
        name = training.stages.TASKS[models.GENERATORS[type(preset.model)]].name
        model, header = checkpoints.load(self.folder / f"{name}.best.safetensors")
        parts = ["validation", "validation-pairs"]
        parts += [] if self.part == "settings" else ["heldout", "heldout-pairs"]
        losses = {part: loss_of(model, tokenizer, preset, called(preset, part), text) for part in parts}
        losses["train"] = loss_of(model, tokenizer, preset, first(called(preset, "train"), PART_OF_TRAIN), text)
        log = [e for e in training.read_log(self.folder / "metrics.jsonl") if e["phase"] == name]
        found = {
            "minutes": minutes(self.folder, name),
            "steps": log[-1]["step"],
            "best_step": header["trained"]["steps"],
            "parameters": sum(p.numel() for p in model.parameters()),
            "losses": losses,
            "curve": [[e["step"], e["loss"], e["validation_loss"]] for e in log if "validation_loss" in e],
        }
        if self.part != "settings":
            found |= {
                "frequencies": frequencies(tokenizer, parts),
                **scores(model, tokenizer, preset, text, self.name),
            }
        return {**what, **found}


def first(images: data.ArraySet, count: int) -> data.ArraySet:
    """The first ones, which are a random sample; with captions if they had some."""
    extra = {key: data.Labels(labels.values[:count], labels.names) for key, labels in images.extra.items()}
    found = data.ArraySet(images.images[:count], images.labels[:count], images.class_names, extra, images.background)
    return data.captioned(found) if isinstance(images, data.Captioned) else found


@functools.cache
def text_encoder() -> models.TextEncoder:
    """The frozen encoder of all runs."""
    return checkpoints.load(TEXT_FOLDER / evaluation.captions.TEXT, "TextEncoder")[0]


def loss_of(model, tokenizer, preset: training.Preset, images: data.ArraySet, text) -> float:
    """Nats a token, without dropout, under the captions of epoch 0."""
    more = {} if text is None else {"text": text}
    task = training.stages.TASKS[type(model)](model.eval(), tokenizer, images, "cpu", images, **more)
    config = dataclasses.replace(preset.model_train, validate_images=len(images))
    return heldout_statistics(task, config, Ranks())["validation_loss"]


def frequencies(tokenizer, parts: list[str]) -> dict[str, float]:
    """The loss of a model that knows how often each code occurs at each place of "train", and no more."""

    def tokens(part: str) -> torch.Tensor:
        images = drawings(part)
        return torch.cat([torch.cat(tokenizer.encode(x), 1) for x in images.batch(slice(None))[0].split(256)])

    known, codes = tokens("train"), tokenizer.config.codebook_size
    return {part: evaluation.frequency_loss(known, tokens(part), codes) for part in parts}


def scores(model, tokenizer, preset: training.Preset, text, name: str) -> dict[str, object]:
    """What is drawn from held-out captions, or classes: retrieval beside that of the real drawings, and novelty."""
    settings, found = dataclasses.asdict(preset.sampling), {}
    train, judge = drawings("train"), evaluation.load_caption_judge(TEXT_FOLDER)
    for part in ("heldout", "heldout-pairs"):
        asked = first(called(preset, part), SIZE.drawn)
        index = torch.arange(len(asked))
        cond = asked.labels if text is None else text.read(asked.full_captions(index))
        images = evaluation.draw(model, tokenizer, cond, **settings)
        real = evaluation.in_batches(lambda x: tokenizer.decode(tokenizer.encode(x)), asked.batch(index)[0])
        found[part] = {"novelty": evaluation.novelty(images, train, asked)}
        if text is not None:
            kinds = {"drawn": images, "real": asked.images.float() / 255, "rebuilt": (real + 1) / 2}
            rows = {key: evaluation.retrieval_of_captions(judge, x, asked) for key, x in kinds.items()}
            found[part]["retrieval"] = rows
        picture = RUNS / "pictures" / f"{name}-{part}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        plots.save_images(images[:90], picture, columns=10)
    return {"sampling": settings, "scores": found}


# What is to be done -----------------------------------------------------------------------------------------------


def results() -> dict[str, dict]:
    """Of all finished runs by name, collected or not."""
    return all_results(RESULTS, RUNS)


def choosing_loss(result: dict) -> float:
    """What settings are chosen by: the mean of the two validation losses."""
    losses = result["losses"]
    return (losses["validation"] + losses["validation-pairs"]) / 2


def trials() -> list[Run]:
    """The preset's own settings, and each change of one of them."""
    names = [(), *((name,) for kind in SETTINGS.values() for name in kind)]
    return [Run("text-emoji-var", "settings", names_of_one) for names_of_one in names]


def chosen(done: dict[str, dict]) -> tuple[str, ...] | None:
    """The best setting of each kind that beats the preset's; None while trials are left."""
    losses = {run.settings: choosing_loss(done[run.name]) for run in trials() if run.name in done}
    if len(losses) < len(trials()):
        return None
    best = [min(kind, key=lambda name: losses[(name,)]) for kind in SETTINGS.values()]
    return tuple(name for name in best if losses[(name,)] < losses[()])


def waiting() -> list[Job]:
    """What is left, as far as it can be said by now."""
    done = results()
    jobs: list[Job] = [Tokens(kind) for kind in ("multi-scale", "single") if not Tokens(kind).is_here]
    jobs += [Run("text-emoji-var", "baseline", (), 0), *trials()]
    settings = chosen(done)
    if settings is not None:
        jobs += [
            Run(order, "orders", settings, seed)
            for seed in SEEDS
            for order in ORDERS
            if seed == 0 or order != ORDERS[-1]
        ]
    left = [job for job in jobs if job.name not in done]
    return left if any(isinstance(job, Run) for job in left) else []


def collect() -> None:
    """Results of all runs into one file, beside what is there."""
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    write_json(RESULTS, {**found, "chosen": chosen(results()), "runs": results()})


def main() -> None:
    global RUNS, RESULTS, TEXT_FOLDER, SIZE, SETTINGS, SEEDS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("train", "collect"))
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, into runs/colour-smoke")
    parser.add_argument("--text", type=Path, help="folder of text encoder and judge (default: the shipped ones)")
    args = parser.parse_args()
    TEXT_FOLDER = args.text or TEXT_FOLDER
    if args.smoke:
        RUNS = RUNS.with_name("colour-smoke")
        RESULTS = RUNS / "colour.json"
        SIZE = Size(2, 2, 2, 2, drawn=12, images=130, views=2)
        SETTINGS, SEEDS = {"views": {"mirror": {"mirror": True}}}, SEEDS[:1]
    work_off(waiting) if args.command == "train" else collect()


if __name__ == "__main__":
    main()
