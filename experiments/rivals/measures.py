"""What is measured of the trained sides, on the machine that trained them: frontiers, and seconds an image."""

import dataclasses
import itertools
import json
import time

import torch

from experiments.jobs import write_json
from experiments.rivals.runs import RESULTS, RUNS, SCORED, Run, results
from experiments.rivals.scoring import GUIDANCE, NUCLEUS, STEPS, judged, load, settings
from minivar import checkpoints, data, evaluation, sampling
from minivar.machine import describe_machine

ACCEPTED, REJECTING = (1.0, 0.5, 0.25, 0.1), ("var", "gpt2")  # shares of the drawings; sides


def runs_here() -> list[Run]:
    """Finished runs whose checkpoints are on this machine."""
    found = []
    for name, result in results().items():
        if result["part"] in SCORED and any((RUNS / name / file).is_file() for file in checkpoints.FILES):
            fields = (field.name for field in dataclasses.fields(Run))
            found.append(Run(**{field: result[field] for field in fields if field in result}))
    return found


def frontier() -> None:
    """Held-out precision and recall of seed 0 of every side that draws from logits."""
    found = json.loads(RESULTS.read_text())
    rows = found.setdefault("frontier", {})
    for run in runs_here():
        if (run.seed, run.part, run.world) != (0, "seeds", "digits") or run.side in (*STEPS, *rows):
            continue
        rows[run.side] = []
        for guidance, nucleus in itertools.product(GUIDANCE, NUCLEUS):
            scores = judged(run, 2000, 0, "heldout", settings(run.side, guidance, nucleus))
            rows[run.side].append({"guidance": guidance, "nucleus": nucleus, **scores})
        write_json(RESULTS, found)
        print(run.side, flush=True)


def reconstructions() -> None:
    """Held-out digits through each tokenizer and back, judged as samples are: what no transformer exceeds."""
    found = json.loads(RESULTS.read_text())
    rows = found.setdefault("reconstructions", {})
    train, heldout = data.load("digits", evaluation.OTHERS["heldout"]), data.load("digits", "heldout")
    images, labels = heldout.batch(slice(None))
    for name, result in results().items():
        path = RUNS / name / "tokenizer.safetensors"
        if name in rows or result["part"] != "tokenizers" or result.get("world") == "emoji" or not path.is_file():
            continue
        tokenizer, _ = checkpoints.load(path, "VQVAE")
        pictures = torch.cat([(tokenizer.decode(tokenizer.encode(part)) + 1) / 2 for part in images.split(200)])
        rows[name] = evaluation.score_samples(pictures, labels, train, heldout, "digits")
        write_json(RESULTS, found)
        print(name, flush=True)


def rejection() -> None:
    """Three seeds of VAR and of the GPT-2 style: of 1 / share as many drawings those that the classifier likes best.

    At the settings of the run; share 1 is everything. The other judge never saw the classifier's labels.
    """
    found = json.loads(RESULTS.read_text())
    rows = found.setdefault("rejection", {})
    train, heldout = data.load("digits", evaluation.OTHERS["heldout"]), data.load("digits", "heldout")
    classifier, labels = evaluation.load_digit_classifier()[0], torch.arange(2000) % 10
    for run in runs_here():
        if run.side not in REJECTING or run.part != "seeds" or run.world != "digits" or run.name in rows:
            continue
        tokenizer, model = load(run)
        how, rows[run.name] = results()[run.name]["scores"]["settings"], []
        for share in ACCEPTED:
            images = evaluation.draw_accepted(model, tokenizer, labels, classifier, share, 0, 100, **how)
            rows[run.name].append(
                {"share": share, **evaluation.score_samples(images, labels, train, heldout, "digits")}
            )
        write_json(RESULTS, found)
        print(run.name, flush=True)


def seconds() -> None:
    """Best of three calls for 1 and 64 images, guided, without filters."""
    found = json.loads(RESULTS.read_text())
    timed = found["seconds"] = {"machine": describe_machine(torch.device("cpu")), "rows": []}
    for run in runs_here():
        if (run.seed, run.part, run.world) != (0, "seeds", "digits"):
            continue
        tokenizer, model = (sampling.packed(each) for each in load(run))
        for count in (1, 64):
            labels, times = torch.arange(count) % 10, []
            for _ in range(4):
                started = time.perf_counter()
                sampling.generate(model, tokenizer, labels, **settings(run.side, 1.5))
                times.append(time.perf_counter() - started)
            timed["rows"].append({"side": run.side, "count": count, "seconds": min(times[1:])})
            print(timed["rows"][-1], flush=True)
    write_json(RESULTS, found)
