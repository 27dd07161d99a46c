"""Score a run on digits over 2,000 samples and write scores.json into its folder.

python experiments/score_checkpoint.py runs/digits-long
"""

import argparse
import json
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, sampling, training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    tokenizer, model, header = checkpoints.load_pair(folder)
    classifier, _ = evaluation.load_digit_classifier()
    labels = torch.arange(2000) % 10
    settings = {**header["sampling"], "generator": torch.Generator().manual_seed(0)}
    images = torch.cat([sampling.sample(model, tokenizer, part, **settings).images for part in labels.split(100)])
    scores = evaluation.judge_digits(classifier, images, labels)
    scores["reconstruction_mse"] = evaluation.reconstruction_error(
        tokenizer, data.load_digits("heldout").batch(slice(None))[0]
    )
    for phase in ("tokenizer", "var"):
        last = [entry for entry in training.read_log(folder / "metrics.jsonl") if entry["phase"] == phase][-1]
        scores[f"{phase}_minutes"] = last["seconds"] / 60
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
