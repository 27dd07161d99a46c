"""The head-to-head of chapter 08a: three transformers of a million parameters on the digits, one training loop.

python -m experiments.head_to_head train 0     # seed 0: two tokenizers (shared by all seeds), then five transformers
python -m experiments.head_to_head train 1
python -m experiments.head_to_head score       # samples, scores and sampling times -> data/results/head_to_head.json
python -m experiments.head_to_head ship        # VAR and LlamaGen style of seed 0 -> data/checkpoints/duel-*

Protocol. Equal parameters: 1.00 million, within 0.5 %. Equal images: every transformer sees the same 96,000 images in
the same order (duel-NAME). Equal time: the raster models go on until they have had the minutes that VAR took
(duel-NAME-time: a run of its own, since the learning rate follows the length of the run). Optimiser, learning rate,
schedule, views of the digits, nets and codebook size are the same. Run at most one training per core, each with
OMP_NUM_THREADS=1, on an otherwise idle machine. Everything resumes.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch

from experiments.jobs import minutes
from minivar import checkpoints, data, evaluation, files, presets, sampling, training

RUNS = data.DATA_ROOT.parent / "runs" / "duel"
RESULTS = data.DATA_ROOT / "results" / "head_to_head.json"
MODELS = ("var", "llamagen", "gpt2")
TOKENIZERS = {"var": "var", "llamagen": "llamagen", "gpt2": "llamagen"}
GUIDANCE = (1.0, 1.5, 2.0, 3.0, 4.0)  # LlamaGen's convention; VAR's cfg is one less, at the last scale


def load_tokenizer(model: str):
    """The tokenizer of a side, trained once, with seed 0."""
    preset = presets.get(f"duel-{TOKENIZERS[model]}")
    return training.train_tokenizer(preset, presets.training_set(preset), RUNS / f"tok-{TOKENIZERS[model]}")


def train_seed(seed: int) -> None:
    """The five transformers of one seed."""
    images = presets.training_set(presets.get("duel-var"))
    for model in MODELS:
        preset = presets.get(f"duel-{model}", {"model_train.seed": seed})
        tokenizer = load_tokenizer(model)
        folder = RUNS / f"{model}-{seed}"
        training.train_model(preset, tokenizer, images, folder)
        if model == "var":
            budget = minutes(folder, "var")
            continue
        longer = preset.model_train.epochs * budget / minutes(folder, "gpt")
        longer = round(longer * 500) / 500  # whole steps of an epoch of 500
        timed = RUNS / f"{model}-time-{seed}"
        if (timed / "epochs.json").is_file():  # the budget of a run that was interrupted
            longer = json.loads((timed / "epochs.json").read_text())
        files.write_atomically(timed / "epochs.json", lambda path, value=longer: path.write_text(str(value)))
        more = dataclasses.replace(preset.model_train, epochs=longer)
        training.train_model(dataclasses.replace(preset, model_train=more), tokenizer, images, timed)


def settings(model: str, guidance: float) -> dict:
    """Sampling without filters, at one guidance."""
    return {"cfg": guidance - 1 if model == "var" else guidance}


def draw(model, tokenizer, labels, **options):
    """Images of all labels, 100 at a time, with seed 0."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat(
        [sampling.generate(model, tokenizer, part, generator, **options).images for part in labels.split(100)]
    )


def seconds(function, repeats: int = 3) -> float:
    """Best of ``repeats``, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def score_run(folder: Path, classifier) -> list[dict]:
    """Scores of one finished run at every guidance; kept beside it, since they take a minute each."""
    kept = folder / "scores.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    phase = "var" if folder.name.startswith("var") else "gpt"
    name, seed = folder.name.rsplit("-", 1)
    model_name = name.removesuffix("-time")
    model, header = checkpoints.load(folder / f"{phase}.safetensors")
    tokenizer = load_tokenizer(model_name).eval()
    last = [entry for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == phase][-1]
    labels = torch.arange(2000) % 10
    runs = []
    for guidance in GUIDANCE:
        images = draw(model, tokenizer, labels, **settings(model_name, guidance))
        run = {
            "model": model_name,
            "protocol": "time" if name.endswith("-time") else "images",
            "seed": int(seed),
            "guidance": guidance,
            "parameters": sum(p.numel() for p in model.parameters()),
            "images": header["trained"]["steps"] * 64,
            "minutes": minutes(folder, phase),
            "loss": last["loss"],
            "token_accuracy": last["accuracy"],
            **evaluation.judge_digits(classifier, images, labels),
        }
        runs.append(run)
        shown = ("accuracy", "frechet_ratio", "precision", "recall", "minutes")
        print(folder.name, guidance, {key: round(run[key], 3) for key in shown}, flush=True)
    files.write_atomically(kept, lambda path: path.write_text(json.dumps(runs)))
    return runs


def score() -> None:
    """Samples of every finished run at every guidance, and the time that sampling takes."""
    classifier, _ = evaluation.load_digit_classifier()
    heldout = data.load_digits("heldout")
    result = {"tokenizers": {}, "runs": [], "seconds": []}
    for name in ("var", "llamagen"):
        tokenizer = load_tokenizer(name).eval()
        images = heldout.batch(slice(None))[0]
        rebuilt = evaluation.in_batches(lambda part, t=tokenizer: t.decode(t.encode(part)), images)
        judged = evaluation.judge_digits(classifier, (rebuilt + 1) / 2, heldout.labels)
        result["tokenizers"][name] = {
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "mse": evaluation.reconstruction_error(tokenizer, images),
            "usage": [round(u["used"], 4) for u in evaluation.codebook_usage(tokenizer.encode(images), 512)],
            "minutes": minutes(RUNS / f"tok-{name}", "tokenizer"),
            "reconstructions": judged,
        }
    for folder in sorted(RUNS.iterdir()):
        if any((folder / f"{phase}.safetensors").is_file() for phase in ("var", "gpt")):
            result["runs"] += score_run(folder, classifier)
    for model_name in MODELS:
        phase = "var" if model_name == "var" else "gpt"
        model, _ = checkpoints.load(RUNS / f"{model_name}-0" / f"{phase}.safetensors")
        tokenizer = load_tokenizer(model_name).eval()
        for count in (1, 64):
            for use_cache in (True, False):
                cond = torch.arange(count) % 10
                options = {"use_cache": use_cache, **settings(model_name, 1.5)}  # with guidance: a batch of 2 x count
                taken = seconds(lambda m=model, t=tokenizer, c=cond, o=options: sampling.generate(m, t, c, **o))
                result["seconds"].append({"model": model_name, "count": count, "cache": use_cache, "seconds": taken})
                print(model_name, count, use_cache, f"{taken:.3f} s", flush=True)
    model, _ = checkpoints.load(RUNS / "gpt2-0" / "gpt.safetensors")  # not shipped: 20 of its samples are, as tokens
    drawn = sampling.generate(
        model, None, torch.arange(20) % 10, torch.Generator().manual_seed(0), **settings("gpt2", 2.0)
    )
    result["gpt2_tokens"] = drawn.tokens.tolist()
    result["threads"] = torch.get_num_threads()
    files.write_atomically(RESULTS, lambda path: path.write_text(json.dumps(result, indent=1) + "\n"))


def ship() -> None:
    """Write two transformers of seed 0 and their tokenizers in float16, which halves the files."""
    for model_name in ("var", "llamagen"):
        phase = "var" if model_name == "var" else "gpt"
        folder = data.DATA_ROOT / "checkpoints" / f"duel-{model_name}"
        sources = {phase: RUNS / f"{model_name}-0", "tokenizer": RUNS / f"tok-{TOKENIZERS[model_name]}"}
        for name, source in sources.items():
            tensors, header = files.read_tensors(source / f"{name}.safetensors")
            half = {key: value.half() for key, value in tensors.items()}
            files.write_tensors(folder / f"{name}.safetensors", half, header)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train").add_argument("seed", type=int)
    commands.add_parser("score")
    commands.add_parser("ship")
    args = parser.parse_args()
    if args.command == "train":
        train_seed(args.seed)
    else:
        {"score": score, "ship": ship}[args.command]()


if __name__ == "__main__":
    main()
