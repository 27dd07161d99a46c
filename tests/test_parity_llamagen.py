"""LlamaGen's published code, reproduced: numbers on tiny cases, names and shapes of the full checkpoints."""

import json
from pathlib import Path

import numpy as np
import parity_weights
import pytest
import torch
import torch.nn.functional as F

from minivar import checkpoints, sampling
from minivar.checkpoints import CheckpointError

DATA = Path(__file__).parent / "data"
OFFICIAL = json.loads((DATA / "official_checkpoint_keys_llamagen.json").read_text())


def load_case(name: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(configuration, published results, redrawn checkpoint)."""
    case = json.loads((DATA / f"{name}.json").read_text())
    results = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(DATA / f"{name}.npz").items()}
    keys = case["vq_keys"] if "vq_keys" in case else case["gpt_keys"]
    drawn = {key: parity_weights.draw(key, shape, case["seed"]) for key, shape in keys.items()}
    fixed = parity_weights.FIXED
    return case, results, {k: torch.from_numpy(v) for k, v in drawn.items() if k.rsplit(".")[-1] not in fixed}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.detach(), expected, atol=1e-4, rtol=1e-4)


def test_the_tokenizer_gives_the_published_numbers():
    case, expected, state = load_case("llamagen_vq16")
    tokenizer = checkpoints.from_llamagen_tokenizer(state)
    images = torch.from_numpy(parity_weights.image(case["image_shape"], case["image_seed"]))
    features = tokenizer.features(images)
    close(features, expected["features"])
    tokens = tokenizer.encode(images)
    assert torch.equal(tokens[0], expected["tokens"].long())
    out = tokenizer.quantizer(features)
    close(out.quantized, expected["quant"])
    close(out.scale_errors[0], expected["vq_loss"])
    close(out.loss, expected["vq_loss"] + expected["commit_loss"])
    close(tokenizer.decode_features(next(tokenizer.quantizer.accumulate(tokens))), expected["recon"])
    close(tokenizer.decode(tokens), expected["recon"].clamp(-1, 1))


@pytest.mark.parametrize("name", ["llamagen_c2i", "llamagen_t2i"])
def test_the_transformer_gives_the_published_numbers(name):
    case, expected, state = load_case(name)
    gpt = checkpoints.from_llamagen_gpt(state, heads=case["heads"])
    cond = expected["cond"] if expected["cond"].is_floating_point() else expected["cond"].long()
    tokens = expected["tokens"].long()
    logits = gpt(cond, tokens[:, :-1])
    close(logits, expected["logits"])
    close(F.cross_entropy(logits.transpose(1, 2), tokens), expected["loss"])
    s, grid = case["sampling"], (case["grid"], case["grid"])
    greedy = sampling.sample_raster(gpt, None, cond, cfg=s["cfg"], greedy=True, grid=grid)
    assert torch.equal(greedy.tokens, expected["greedy_tokens"].long())
    torch.manual_seed(s["manual_seed"])
    options = {key: s[key] for key in ("cfg", "temperature", "top_k", "top_p")}
    assert torch.equal(
        sampling.sample_raster(gpt, None, cond, **options, grid=grid).tokens, expected["seeded_tokens"].long()
    )


@pytest.mark.parametrize("file", OFFICIAL)
@pytest.mark.parametrize("wrapper", [None, "model", "module", "state_dict"])
def test_every_official_entry_finds_its_place(file, wrapper):
    entries = OFFICIAL[file]
    state = {k: torch.empty(s, dtype=getattr(torch, kind), device="meta") for k, (s, kind) in entries.items()}
    wrapped = state if wrapper is None else {wrapper: state, "steps": 3}
    tokenizer = file.startswith("vq")
    model = (checkpoints.from_llamagen_tokenizer if tokenizer else checkpoints.from_llamagen_gpt)(wrapped)
    own = sum(p.numel() for p in model.parameters())
    counted = sum(v.numel() for k, v in state.items() if not k.endswith("codebook_used"))
    assert own == counted


def test_a_rotary_table_in_the_file_changes_nothing():
    case, expected, state = load_case("llamagen_c2i")
    gpt = checkpoints.from_llamagen_gpt({**state, "freqs_cis": torch.zeros(3)}, heads=case["heads"])
    close(gpt(expected["cond"].long(), expected["tokens"].long()[:, :-1]), expected["logits"])


def test_an_entry_that_does_not_fit_is_named():
    _, _, state = load_case("llamagen_c2i")
    without = {k: v for k, v in state.items() if k != "norm.weight"}
    for bad, said in (
        (without, "missing: norm.weight"),
        ({**state, "surprise": torch.zeros(1)}, "unexpected: surprise"),
        ({**state, "norm.weight": torch.zeros(3)}, r"norm.weight has shape \(3,\), expected \(64,\)"),
    ):
        with pytest.raises(CheckpointError, match=said):
            checkpoints.from_llamagen_gpt(bad, heads=4)
    with pytest.raises(CheckpointError, match="Width 64 is not a published one"):
        checkpoints.from_llamagen_gpt(state)
