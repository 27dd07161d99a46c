"""Copy a run on emoji into data/checkpoints/emoji in float16, with its log, and score it.

    minivar train --preset emoji
    python experiments/ship_emoji.py runs/emoji

``scores.json`` then holds, of the copy: the mean squared error of rebuilt held-out emoji, the loss on the tokens
of held-out and of training emoji by name (group; group and style; subgroup and style), and *novelty*: the median
distance in pixels from a sample to its nearest training emoji, over that of held-out emoji. There is no accuracy, as
there is for digits: a classifier trained on the training emoji named the group of only two held-out ones in three.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, files, presets, sampling, training

SHIPPED = data.DATA_ROOT / "checkpoints" / "emoji"
NAMES = ("group", "group and style", "subgroup and style")


def copy(run: Path) -> None:
    """Weights in float16, and every second entry of the log, rounded to four digits."""
    for name in ("tokenizer", "var"):
        tensors, header = files.read_tensors(run / f"{name}.safetensors")
        half = {key: value.half() for key, value in tensors.items()}
        if name == "var":  # chosen by eye after training
            header["sampling"] = asdict(presets.get("emoji").sampling)
        files.write_tensors(SHIPPED / f"{name}.safetensors", half, header)

    def rounded(value):
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    entries = [entry for entry in training.read_log(run / "metrics.jsonl") if entry["step"] % 100 == 0]
    lines = [json.dumps({key: rounded(value) for key, value in entry.items()}) + "\n" for entry in entries]
    (SHIPPED / "metrics.jsonl").write_text("".join(lines))


def distance_to_nearest(images: torch.Tensor, known: torch.Tensor) -> float:
    """Median root mean square distance of images (N, C, H, W) in [-1, 1] to the nearest of ``known``."""
    distances = torch.cdist(images.flatten(1), known.flatten(1)).amin(1)
    return (distances / images[0].numel() ** 0.5).median().item()


@torch.no_grad()
def losses(model, tokenizer, emoji: data.ArraySet) -> dict[str, float]:
    """Nats a token, by kind of name, over three views of each of at most 720 emoji."""
    index = torch.arange(min(len(emoji), 720))  # the order of the emoji is random
    extra = {key: data.Labels(labels.values[index], labels.names) for key, labels in emoji.extra.items()}
    part = data.ArraySet(emoji.images[index], emoji.labels[index], emoji.class_names, extra, emoji.background)
    views = data.emoji_views(part, 3, seed=1)
    task, found = training.VARTask(model, tokenizer, views), {}
    kinds = (views.labels >= 9).long() + (views.labels >= 27)
    for kind, name in enumerate(NAMES):
        parts = (kinds == kind).nonzero().flatten().split(180)
        total = sum(task.loss(part, torch.device("cpu"))[0].item() * len(part) for part in parts)
        found[name] = total / sum(map(len, parts))
    return found


def score(run: Path) -> dict[str, object]:
    """What the docstring of this file lists, of the shipped pair, and how long it was trained."""
    tokenizer, model, header = checkpoints.load_pair(SHIPPED)
    training, heldout = data.load("emoji", "train+validation"), data.load("emoji", "heldout")
    images, known = heldout.batch(slice(None))[0], training.batch(slice(None))[0]
    labels = torch.arange(360) % 9
    settings = {**header["sampling"], "generator": torch.Generator().manual_seed(0)}
    drawn = torch.cat([sampling.generate(model, tokenizer, part, **settings).images for part in labels.split(90)])
    tokens = [torch.cat(scale) for scale in zip(*(tokenizer.encode(part) for part in images.split(240)), strict=True)]
    scores = {
        "reconstruction_mse": evaluation.reconstruction_error(tokenizer, images),
        "codes_used": [u["used"] for u in evaluation.codebook_usage(tokens, tokenizer.config.codebook_size)],
        "heldout_loss": losses(model, tokenizer, heldout),
        "train_loss": losses(model, tokenizer, training),
        "novelty": distance_to_nearest(drawn * 2 - 1, known) / distance_to_nearest(images, known),
    }
    for phase in ("tokenizer", "var"):
        last = [entry for entry in training.read_log(run / "metrics.jsonl") if entry["phase"] == phase][-1]
        scores[f"{phase}_steps"], scores[f"{phase}_minutes"] = last["step"], last["cpu_seconds"] / 60
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    copy(run)
    text = json.dumps(score(run), indent=1)
    (SHIPPED / "scores.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
