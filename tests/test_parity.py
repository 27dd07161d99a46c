"""The published implementation's numbers, reproduced; its checkpoints in, out, and refused where they do not fit.

``parity_cases`` loads what the published code gave. Smoothed sampling has a file of its own,
``test_smooth_sampling.py``.
"""

import json
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from parity_cases import CASES, DATA, Case

from minivar import checkpoints
from minivar.checkpoints import CheckpointError
from minivar.sampling import edit, sample

OFFICIAL = json.loads((DATA / "official_checkpoint_keys_var.json").read_text())
VAE_FILE = "vae_ch160v4096z32.pth"


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def first() -> Case:
    return Case(CASES[0])


def assert_pixels(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Of one case every fourth row and column is kept, since the repository has to stay small."""
    step = got.shape[-1] // expected.shape[-1]
    assert step in (1, 4)
    assert_close(got[..., ::step, ::step], expected)


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert (got - expected).abs().max() <= 1e-4


# Results ----------------------------------------------------------------------------------------------------------


def test_features_tokens_and_reconstruction(case):
    assert_close(case.tokenizer.features(case.images).detach(), case.results["features"])
    tokens = case.tokenizer.encode(case.images)
    assert len(tokens) == len(case.config["scales"])
    for k, tokens_Bl in enumerate(tokens):
        assert torch.equal(tokens_Bl, case.results[f"tokens_{k}"])
    f_hat = list(case.tokenizer.quantizer.accumulate(tokens))[-1]
    assert_close(f_hat.detach(), case.results["f_hat_last"])
    assert_pixels(case.tokenizer.decode(tokens), case.results["recon"])


def test_training_forward_of_the_tokenizer(case):
    out = case.tokenizer(case.images)
    assert_pixels(out.reconstruction.detach(), case.results["train_recon"])
    assert_close(out.loss.detach(), case.results["vq_loss"])


def test_teacher_inputs_and_logits(case):
    tokens = [case.results[f"tokens_{k}"] for k in range(len(case.config["scales"]))]
    inputs = case.tokenizer.teacher_inputs(tokens)
    assert_close(inputs, case.results["var_input"])
    assert_close(case.model(case.labels, inputs).detach(), case.results["logits"])


def test_logits_are_closer_on_the_whole_than_a_wrong_epsilon_would_leave_them(case, monkeypatch):
    """A layer norm with another epsilon stays below the bound of the largest error, and is ten times the mean's."""
    inputs = case.tokenizer.teacher_inputs([case.results[f"tokens_{k}"] for k in range(len(case.config["scales"]))])

    def mean_error() -> float:
        with torch.no_grad():
            return (case.model(case.labels, inputs) - case.results["logits"]).abs().mean().item()

    def modulate(x, scale, shift):
        return F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift

    assert mean_error() <= 1e-6
    monkeypatch.setattr("minivar.models.var.modulate", modulate)
    assert mean_error() > 1e-6


@pytest.mark.parametrize("kind", ["greedy", "seeded"])
def test_sampling(case, kind):
    options = {"cfg": case.options["cfg"], "top_k": 1} if kind == "greedy" else case.options
    generator = torch.Generator().manual_seed(case.seed)
    got = sample(case.model, case.tokenizer, case.labels, **options, generator=generator)
    assert torch.equal(got.tokens, case.results[f"{kind}_tokens"])
    assert_pixels(got.images, case.results[f"{kind}_image"])


@pytest.mark.parametrize("kind", ["inpaint", "outpaint"])
def test_editing(case, kind):
    mask = case.results[f"{kind}_mask"]
    generator = torch.Generator().manual_seed(case.seed)
    got = edit(case.model, case.tokenizer, case.images, case.labels, mask, **case.options, generator=generator)
    assert torch.equal(got.tokens, case.results[f"{kind}_tokens"])
    assert_pixels(got.images, case.results[f"{kind}_image"])


def test_no_result_is_left_uncompared(case):
    scales = len(case.config["scales"])
    compared = {"features", "f_hat_last", "recon", "train_recon", "vq_loss", "var_input", "logits"}
    compared |= {f"tokens_{k}" for k in range(scales)}
    compared |= {f"{kind}_{what}" for kind in ("greedy", "seeded", "smooth") for what in ("tokens", "image")}
    compared |= {f"{kind}_{what}" for kind in ("inpaint", "outpaint") for what in ("tokens", "image", "mask")}
    assert set(case.results) == compared


# from_var and to_var ----------------------------------------------------------------------------------------------


def assert_same_state(got: dict, expected: dict) -> None:
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert got[key].dtype == value.dtype, key
        assert torch.equal(got[key], value), key


def test_to_var_is_the_exact_inverse_of_from_var(case):
    vae_state, var_state = case.vae_state | case.usage(), case.var_state | case.constants()
    assert {key: list(value.shape) for key, value in vae_state.items()} == case.config["vae_keys"]
    assert {key: list(value.shape) for key, value in var_state.items()} == case.config["var_keys"]
    pair = checkpoints.from_var(vae_state, var_state, scales=case.config["scales"])
    got_vae, got_var = checkpoints.to_var(*pair)
    assert_same_state(got_vae, vae_state)
    assert_same_state(got_var, var_state)
    assert got_var["lvl_1L"].dtype == torch.int64


def test_loaded_models_are_in_eval_mode_and_can_be_trained(case):
    assert not case.tokenizer.training
    assert not case.model.training
    assert all(p.requires_grad for p in (*case.tokenizer.parameters(), *case.model.parameters()))


def test_codebook_statistics_of_another_schedule_are_ignored(first):
    vae_state = first.vae_state | first.usage(scales=7)
    tokenizer, model = checkpoints.from_var(vae_state, first.var_state, first.config["scales"])
    assert tokenizer.quantizer.usage_KV.shape == (4, 64)
    assert tokenizer.quantizer.usage_KV.abs().max() == 0
    assert torch.equal(tokenizer.encode(first.images)[0], first.results["tokens_0"])
    assert "quantize.ema_vocab_hit_SV" in vae_state  # the caller's dictionary is left alone


@pytest.mark.parametrize("name", [name for name in OFFICIAL if name != VAE_FILE])
def test_every_entry_of_the_official_files_has_its_place(name):
    def meta(keys):
        return {
            k: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for k, (shape, dtype) in keys.items()
        }

    tokenizer, model = checkpoints.from_var(meta(OFFICIAL[VAE_FILE]), meta(OFFICIAL[name]))
    depth = int(re.search(r"\d+", name)[0])
    assert (model.config.depth, model.config.width, model.config.heads) == (depth, 64 * depth, depth)
    for got, keys in zip(checkpoints.to_var(tokenizer, model), (OFFICIAL[VAE_FILE], OFFICIAL[name]), strict=True):
        described = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in got.items()}
        assert described == keys


# Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "trainer"])
@pytest.mark.parametrize("where", ["dictionary", "file", "old file"])
def test_bare_and_trainer_files_load_alike(first, tmp_path, wrapped, where):
    sources = [first.vae_state, first.var_state]
    if wrapped:
        trainer = {"vae_local": first.vae_state, "var_wo_ddp": first.var_state, "other": {"step": 3}}
        sources = [{"epoch": 1, "trainer": trainer}] * 2
    if where != "dictionary":
        paths = [tmp_path / "vae.pth", str(tmp_path / "var.pth")]
        for path, source in zip(paths, sources):
            torch.save(source, path, _use_new_zipfile_serialization=where == "file")
        sources = paths
    tokenizer, model = checkpoints.from_var(*sources, scales=first.config["scales"])
    assert_same_state(tokenizer.state_dict(), first.tokenizer.state_dict())
    assert_same_state(model.state_dict(), first.model.state_dict())


class Evil:
    """What a malicious file would do when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_needs_pickle_is_refused_and_not_executed(first, tmp_path):
    trap = tmp_path / "trap"
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists()  # the trap works
    trap.unlink()
    torch.save({"pos_1LC": Evil(trap)}, tmp_path / "var.pth")
    with pytest.raises(CheckpointError, match=r"var\.pth is not a readable PyTorch checkpoint: ") as caught:
        checkpoints.from_var(first.vae_state, tmp_path / "var.pth", first.config["scales"])
    assert not trap.exists()
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(first, tmp_path):
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*nothing\.pth"):
        checkpoints.from_var(tmp_path / "nothing.pth", first.var_state, first.config["scales"])
    torch.save(first.vae_state, tmp_path / "vae.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "vae.pth").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth is not a readable PyTorch checkpoint"):
        checkpoints.from_var(tmp_path / "cut.pth", first.var_state, first.config["scales"])


@pytest.mark.parametrize("source", [{}, [1, 2], {"optimizer": {"lr": 1.0}}, {"trainer": {"vqgan": {}}}], ids=str)
def test_what_is_no_state_dict_is_refused(first, source):
    with pytest.raises(CheckpointError, match="Expected a state dict, names to tensors, bare or under one of"):
        checkpoints.from_var(source, first.var_state, first.config["scales"])


def test_an_unknown_number_of_tokens_needs_the_argument_scales(first):
    with pytest.raises(
        CheckpointError, match=r"has 30 tokens, expected .* \(680, 2240, 9451\) or the argument scales"
    ):
        checkpoints.from_var(first.vae_state, first.var_state)


# Mismatches: entries that only have to fit, and those from which the configuration is inferred.
TOKENIZER_ENTRIES = (
    "encoder.conv_in.weight",
    "encoder.conv_in.bias",
    "encoder.down.0.block.0.conv1.weight",
    "encoder.down.2.block.0.nin_shortcut.bias",
    "encoder.mid.attn_1.norm.weight",
    "decoder.up.4.upsample.conv.weight",
    "decoder.conv_out.weight",
    "quantize.embedding.weight",
    "quantize.quant_resi.qresi_ls.3.weight",
    "quant_conv.weight",
    "post_quant_conv.bias",
)
VAR_ENTRIES = (
    "pos_start",
    "pos_1LC",
    "lvl_embed.weight",
    "word_embed.weight",
    "word_embed.bias",
    "blocks.0.attn.scale_mul_1H11",
    "blocks.0.attn.mat_qkv.weight",
    "blocks.0.ffn.fc1.weight",
    "blocks.1.ffn.fc2.bias",
    "blocks.1.ada_lin.1.weight",
    "head_nm.ada_lin.1.weight",
    "head.weight",
    "head.bias",
)


def complaint(case: Case, vae_state: dict, var_state: dict) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.from_var(vae_state, var_state, case.config["scales"])
    message = str(caught.value)
    assert "\n" not in message
    entries = [*case.config["vae_keys"], *case.config["var_keys"], "extra.weight"]
    named = {word for word in re.split(r"[\s,;:]+", message.rstrip(".")) if word in entries}
    assert len(named) == 1, message
    return message


def changed(case: Case, key: str, value: torch.Tensor | None) -> tuple[dict, dict]:
    """The case's two states with one entry replaced, or removed with None."""
    states = dict(case.vae_state), dict(case.var_state)
    state = states[key not in case.vae_state]
    state[key] = value
    if value is None:
        del state[key]
    return states


@pytest.mark.parametrize("keys", [TOKENIZER_ENTRIES, VAR_ENTRIES], ids=["tokenizer", "transformer"])
def test_a_missing_entry_is_named(first, keys):
    for key in keys:
        assert f"missing: {key}." in complaint(first, *changed(first, key, None))


@pytest.mark.parametrize("keys", [TOKENIZER_ENTRIES, VAR_ENTRIES], ids=["tokenizer", "transformer"])
def test_an_entry_of_the_wrong_shape_is_named(first, keys):
    for key in keys:
        right = (first.vae_state | first.var_state)[key]
        wrong = torch.zeros(right.shape[0] + 1, *right.shape[1:])
        message = complaint(first, *changed(first, key, wrong))
        assert f"of the wrong shape: {key} has shape {tuple(wrong.shape)}, expected {tuple(right.shape)}." in message


@pytest.mark.parametrize("part", [0, 1], ids=["tokenizer", "transformer"])
def test_an_unexpected_entry_is_named(first, part):
    states = [dict(first.vae_state), dict(first.var_state)]
    states[part]["extra.weight"] = torch.zeros(1)
    assert "unexpected: extra.weight." in complaint(first, *states)


def test_a_constant_of_the_wrong_shape_is_named(first):
    var_state = first.var_state | {"lvl_1L": torch.zeros(1, 680, dtype=torch.int64)}
    assert "of the wrong shape: lvl_1L has shape (1, 680), expected (1, 30)." in complaint(
        first, first.vae_state, var_state
    )


def test_missing_shared_adaln_is_named():
    shared = Case("var_shared_adaln")
    message = complaint(shared, *changed(shared, "shared_ada_lin.1.weight", None))
    assert "missing: shared_ada_lin.1.weight." in message


def test_a_schedule_of_other_length_names_the_position_table(first):
    with pytest.raises(CheckpointError, match=r"pos_1LC has shape \(1, 30, 128\), expected \(1, 55, 128\)"):
        checkpoints.from_var(first.vae_state, first.var_state, scales=(1, 2, 3, 4, 5))
