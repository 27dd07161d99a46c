"""``make bench``: its plain reference equals the package, and it quotes no ratio that it should not."""

import copy
import dataclasses
import functools
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import NETS, tokenizer_config, var_config, wake

from experiments.bench import memory, old, report, run, workloads
from experiments.bench.measuring import (
    COPY,
    PRODUCT,
    SHAPES,
    Processors,
    Rounds,
    Work,
    Yardsticks,
    address,
    count,
    interleave,
    tensors_in,
)
from experiments.bench.measuring import share_of_others as others
from experiments.bench.reference import ReferenceGPT, ReferenceTokenizer, ReferenceVAR
from experiments.bench.reference import var as reference_var
from minivar.machine import describe_machine
from minivar.models import GPT, VAR, GPTConfig, products
from minivar.sampling import packing, sample, sample_raster
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 3, 4, 5])
TEN = ScaleSchedule((1, 2, 3, 4, 5, 6, 7, (7, 8), (8, 9), 10))  # as many as published: phi has ties
SINGLE = {"quantizer": "single", "schedule": None}
TOKENIZERS = {
    "small": {},
    "attention": {"nets": dataclasses.replace(NETS, attention=True, res_blocks=2, patch=2), "image_size": 32},
    "padded": {"image_size": (13, 15)},
    "ten scales": {"schedule": TEN, "image_size": 40},
    "two phis": {"num_phi": 2, "phi_ratio": 0.25},
    "single": SINGLE,
    "no sphere": {**SINGLE, "l2_norm_codes": False},
    "oblong": {**SINGLE, "image_size": (8, 16)},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(ours, theirs) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)


# The reference equals the package ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", TOKENIZERS)
def test_tokens_and_images_of_the_reference_are_those_of_the_tokenizer(variant):
    tokenizer = wake(VQVAE(tokenizer_config(**TOKENIZERS[variant])))
    plain = ReferenceTokenizer(tokenizer)
    images = torch.rand(3, 1, *tokenizer.config.image_size, generator=seeded()) * 2 - 1
    tokens = tokenizer.encode(images)
    assert all(map(torch.equal, tokens, plain.encode(images)))
    assert len({*torch.cat(tokens, dim=1).flatten().tolist()}) > 3
    assert same(tokenizer.decode(tokens), plain.decode(tokens))
    if tokenizer.schedule is not None:
        assert same(tokenizer.teacher_inputs(tokens), plain.teacher_inputs(tokens))


@pytest.mark.parametrize("variant", [{}, {"shared_adaln": True}, {"l2_norm_attention": False}], ids=str)
def test_logits_and_samples_of_the_reference_are_those_of_the_transformer(variant, tokenizer):
    model = wake(VAR(var_config(**variant)))
    plain, plain_tokenizer = ReferenceVAR(model), ReferenceTokenizer(tokenizer)
    inputs = torch.randn(4, 20, 4, generator=seeded())
    assert same(model(LABELS, inputs), plain.forward(LABELS, inputs))
    for settings in ((0.0, 0, 0.0), (1.5, 9, 0.0), (3.0, 12, 0.8), (1.0, 0, 1e-9)):
        images, tokens = sample(model, tokenizer, LABELS, *settings, generator=seeded())
        plain_images, plain_tokens = plain.sample(plain_tokenizer, LABELS, *settings, generator=seeded())
        assert torch.equal(tokens, plain_tokens) and same(images, plain_images)


@pytest.mark.parametrize("use_cache", [True, False])
def test_samples_of_the_reference_in_raster_order_are_those_of_the_package(use_cache):
    shape = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 5, "hidden": 64}
    gpt, tokenizer = wake(GPT(GPTConfig(**shape))), wake(VQVAE(tokenizer_config(**SINGLE)))
    plain, plain_tokenizer = ReferenceGPT(gpt), ReferenceTokenizer(tokenizer)
    for settings in ((1.0, 1.0, 0, 1.0), (2.0, 0.8, 9, 0.8)):
        ours = sample_raster(gpt, tokenizer, LABELS, *settings, generator=seeded(), use_cache=use_cache)
        theirs = plain.sample(plain_tokenizer, LABELS, *settings, use_cache, seeded())
        assert torch.equal(ours.tokens, theirs[1]) and same(ours.images, theirs[0])


def test_the_reference_refuses_transformers_that_it_does_not_know():
    with pytest.raises(ValueError, match="llama-style"):
        ReferenceGPT(GPT(GPTConfig(2, 32, 2, style="gpt2")))


@pytest.mark.parametrize("from_tokens", [True, False])
def test_training_steps_of_the_reference_change_the_weights_as_the_loop_does(from_tokens):
    material = workloads.load_material("digits", CPU, True, 6, True)
    large = dataclasses.replace(material.train, warmup=0.0, base_lr=0.5, clip=0.1, weight_decay=0.5)
    material = material._replace(train=large)
    found = {}
    for side in (workloads.MINIVAR, workloads.REFERENCE):
        alone = material._replace(model=copy.deepcopy(material.model))
        step = workloads.build_training(alone, None, from_tokens).functions[side]
        torch.manual_seed(0)  # labels and branches are dropped alike
        found[side] = [step() for _ in range(3)], list(alone.model.parameters())
    (ours, weights), (theirs, plain_weights) = found.values()
    for mine, other in zip(ours, theirs):
        assert same(mine["loss"], other["loss"]) and same(mine["gradient norm"], other["gradient norm"])
    assert ours[2]["loss"] != ours[0]["loss"] and ours[0]["gradient norm"] > 0.1
    moved = [(w - before).abs().max() for w, before in zip(weights, material.model.parameters())]
    assert min(moved) > 0.01
    assert max((w - p).abs().max() for w, p in zip(weights, plain_weights)) < 1e-3


def test_the_reference_takes_no_copies_but_of_what_lies_otherwise_in_memory(tokenizer):
    plain = ReferenceTokenizer(tokenizer)
    assert all(plain.weights[name] is parameter for name, parameter in tokenizer.named_parameters())
    changed = ReferenceTokenizer(tokenizer.to(memory_format=torch.channels_last))
    assert all(weight.is_contiguous() for weight in changed.weights.values())


@pytest.fixture(scope="module")
def old_package(tmp_path_factory):
    try:
        return old.OldPackage(tmp_path_factory.mktemp("old"))
    except ValueError as error:
        pytest.skip(str(error))


# In miniature, digits and emoji are the same.
DIFFERENT = [w for w in workloads.workloads() if w.family != "emoji" and w.count < 64 or w.kind.endswith("code")]


@pytest.mark.parametrize("workload", DIFFERENT, ids=lambda workload: workload.name)
def test_every_workload_has_sides_that_agree(workload, old_package):
    called = run.compare(workloads.build(workload, CPU, True, old_package), lambda: None)
    assert list(called) == [workloads.MINIVAR, workloads.REFERENCE, workloads.OLD]
    assert [side.differing for side in called.values()] == [None] * 3
    assert called[workloads.MINIVAR].work.flop > 10_000


def test_without_the_history_there_is_no_old_package_and_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(old, "COMMIT", "feedbeef")
    with pytest.raises(ValueError, match="feedbeef is not in git's history here"):
        old.OldPackage(tmp_path)


# Outputs that differ ----------------------------------------------------------------------------------------------


def test_differences_are_named():
    tokens, images = torch.tensor([1, 2, 3]), torch.tensor([0.5, 100.0])
    assert run.difference({"tokens": tokens, "images": images}, {"tokens": tokens, "images": images}) is None
    assert run.difference({"images": images}, {"images": images * (1 + 5e-5)}) is None
    assert run.difference({"tokens": tokens}, {"tokens": tokens.flip(0)}) == "2 of 3 tokens differ"
    assert run.difference({"images": images}, {"images": images + 0.02}).startswith("images lie 2.0e-02 apart")
    assert "apart" in run.difference({"loss": images}, {"loss": images / 0})
    assert "shapes (3,) and (2,)" in run.difference({"tokens": tokens}, {"tokens": tokens[:2]})


def test_a_wrong_reference_is_refused_before_it_is_timed(tmp_path, monkeypatch, capsys):
    right = reference_var.filter_logits
    monkeypatch.setattr(reference_var, "filter_logits", lambda logits, top_k, top_p: right(-logits, top_k, top_p))
    monkeypatch.setattr(memory, "peak_of", lambda *_: 0)
    monkeypatch.setattr(run, "time_all", lambda *_: pytest.fail("it was timed"))
    out = tmp_path / "bench.json"
    assert run.main(["--quick", "--only", "sample-digits-8", "--threads", "1", "--out", str(out)]) == 1
    (row,) = json.loads(out.read_text())["rows"]
    assert "seconds" not in row
    assert row["error"].startswith("sample-digits-8 was not timed, since minivar and the reference disagree: ")
    assert row["error"] in capsys.readouterr().out


def test_what_was_disturbed_is_timed_again_on_the_same_machine_only(tmp_path, monkeypatch, capsys):
    results = tmp_path / "bench.json"
    monkeypatch.setattr(run, "RESULTS", results)
    assert run.main(["--again"]) == 2
    assert "There is no bench.json" in capsys.readouterr().err
    rows = [
        {"name": "sample-digits-1", "against_reference": 1.2, "error": "as it was"},
        {"name": "encode-digits", "against_reference": None},
    ]
    before = {"machine": {**describe_machine(CPU), "load_before": [9, 9, 9]}, "old": old.COMMIT, "rows": rows}
    results.write_text(json.dumps(before))
    monkeypatch.setattr(run, "row_for", lambda workload, setting: {"name": workload.name, "error": "timed again"})
    assert run.main(["--again"]) == 1
    assert json.loads(results.read_text())["rows"] == [rows[0], {"name": "encode-digits", "error": "timed again"}]
    results.write_text(json.dumps({**before, "rows": rows[:1]}))
    assert run.main(["--again"]) == 2
    assert "No workload of bench.json was disturbed" in capsys.readouterr().err
    results.write_text(json.dumps({**before, "machine": {"cores": 1}}))
    assert run.main(["--again"]) == 2
    assert "bench.json is of another machine" in capsys.readouterr().err


# Busy machines, with made-up measurements -------------------------------------------------------------------------

STEADY = [1.0, 1.01, 1.0, 1.02, 0.99]
SHAKY = [1.0, 1.4, 1.0, 1.3, 0.9]
YARDSTICKS = Yardsticks({}, flop=100e9, bytes=10e9)  # 100 GFLOP/s and 10 GB/s, where both take a second


def rounds(
    minivar=STEADY, reference=STEADY, package=None, busy=0.0, product=STEADY, copied=STEADY, alone=STEADY
) -> Rounds:
    yardsticks = {PRODUCT: product, COPY: copied, SHAPES: alone}
    seconds = {workloads.MINIVAR: minivar, workloads.REFERENCE: reference, **yardsticks}
    return Rounds({**seconds, workloads.OLD: package} if package else seconds, busy)


def test_a_quiet_machine_gives_ratios():
    slower = [1.5 * x for x in STEADY]
    row = report.row_of(
        Work(50 * 10**9, 10**9),
        rounds(reference=slower, package=[3 * x for x in STEADY], alone=[0.9 * x for x in STEADY]),
        YARDSTICKS,
    )
    assert row["products_alone"] == pytest.approx(0.9)
    assert row["busy"] is None
    assert row["against_reference"] == pytest.approx(1.5) and row["reference_against_old"] == pytest.approx(2.0)
    assert row["gflop_per_second"] == pytest.approx(50) and row["product_gflop_per_second"] == pytest.approx(100)
    assert row["share_of_product"] == pytest.approx(0.5) and row["bound"] == "compute"
    assert row["share_of_roofline"] == pytest.approx(0.5)
    many_bytes = report.row_of(Work(10**9, 9 * 10**9), rounds(), YARDSTICKS)
    assert many_bytes["bound"] == "memory" and many_bytes["share_of_roofline"] == pytest.approx(0.9)


def test_rounds_that_lie_apart_give_no_ratio_with_those_they_belong_to():
    row = report.row_of(Work(10**9, 1), rounds(reference=SHAKY, package=STEADY), YARDSTICKS)
    assert row["against_reference"] is None and row["reference_against_old"] is None
    assert row["share_of_product"] is not None  # neither minivar nor the product was disturbed
    assert "the ratios of reference to minivar lie 27% apart" in row["busy"]
    assert report.row_of(Work(10**9, 1), rounds(package=SHAKY), YARDSTICKS)["against_reference"] is not None
    row = report.row_of(Work(10**9, 1), rounds(product=SHAKY), YARDSTICKS)
    assert row["against_reference"] is not None
    assert row["share_of_product"] is row["share_of_roofline"] is None
    row = report.row_of(Work(10**9, 1), rounds(alone=SHAKY), YARDSTICKS)
    assert row["products_alone"] is None and row["against_reference"] is not None


def test_a_machine_that_is_slow_for_everyone_does_not_matter():
    slower = [2 * x for x in SHAKY]
    row = report.row_of(
        Work(10**9, 1), rounds(SHAKY, slower, slower, product=SHAKY, copied=SHAKY, alone=SHAKY), YARDSTICKS
    )
    assert row["busy"] is None
    assert (row["against_reference"], row["reference_against_old"]) == pytest.approx((2.0, 1.0))


def test_other_processes_take_every_ratio_away():
    row = report.row_of(Work(10**9, 1), rounds(package=STEADY, busy=0.06), YARDSTICKS)
    compared = (
        "against_reference",
        "reference_against_old",
        "share_of_product",
        "share_of_roofline",
        "products_alone",
    )
    assert [row[key] for key in compared] == [None] * 5
    row |= {"name": "it", "peak_bytes": {workloads.MINIVAR: 0}}
    assert "other processes took 6% of the processors" in report.remarks([row], None)[0]
    assert report.table([row]).split("\n")[1].split().count("busy") == 5
    assert rounds(busy=None).busy((PRODUCT, COPY)) is None  # where nobody counts


def test_what_others_took_is_the_rest_of_all_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    before = Processors(all=100.0, own=10.0)
    assert others(before, Processors(110.0, 20.0), 10.0) == 0
    assert others(before, Processors(118.08, 20.0), 10.0) == pytest.approx(0.2)
    assert others(None, None, 10.0) is None


def test_functions_are_timed_in_turn():
    calls = []
    functions = {name: functools.partial(calls.append, name) for name in "ab"}
    timed = interleave(functions, 3, {"a": 1, "b": 2}, lambda: None)
    assert "".join(calls) == "abb" + "bba" + "abb"
    assert [len(seconds) for seconds in timed.seconds.values()] == [3, 3]


# What is counted --------------------------------------------------------------------------------------------------


def test_work_is_that_of_products_convolutions_and_attention():
    x, w = torch.ones(2, 3), torch.ones(4, 3)
    work, out, _ = count(lambda: F.linear(x, w).relu())
    assert out.shape == (2, 4)
    assert work == (2 * 2 * 3 * 4, 4 * (2 * 3 + 4 * 3 + 2 * 4))
    if products.HAS_ONEDNN:
        linear = packing.PackedLinear(w, None)
        assert count(lambda: linear(x))[0].flop == 2 * 2 * 3 * 4
    assert count(lambda: torch.ones(2, 4).addmm_(x, w.T))[0].flop == 2 * 2 * 3 * 4
    image, kernel = torch.ones(1, 3, 8, 8), torch.ones(5, 3, 3, 3)
    assert count(lambda: F.conv2d(image, kernel, padding=1))[0].flop == 2 * 64 * 27 * 5
    q, k = torch.ones(2, 3, 7, 8), torch.ones(2, 3, 9, 8)
    assert count(lambda: F.scaled_dot_product_attention(q, k, k))[0].flop == 2 * (2 * 2 * 3 * 7 * 9 * 8)


def test_products_can_be_computed_again_without_the_rest():
    """The same work on the same weights; what lay between is one tensor for each shape."""
    first, second = torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)
    image, kernel = torch.ones(1, 3, 8, 8), torch.ones(5, 3, 3, 3)

    def call():
        x = second(second(first(torch.ones(2, 3)).sigmoid()).sigmoid())
        return x, F.conv2d(image + 1, kernel).relu()

    work, _, again = count(call)
    assert count(again)[0] == work
    calls = again.__self__.calls
    assert [operation.overloadpacket.__name__ for operation, *_ in calls] == ["addmm"] * 3 + ["convolution"]
    at = [[address(x) for x in tensors_in(call)] for call in calls]
    assert at[0][2] == address(first.weight)  # seen through a view, which makes no weight an activation
    assert at[1] == at[2] and at[1][2] == address(second.weight)
    assert at[3][1] == address(kernel) and at[3][0] != address(image)


def test_packed_weights_are_kept_where_they_lie():
    if not products.HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    layer = packing.PackedLinear(torch.ones(4, 3), None)
    _, _, again = count(lambda: layer(layer(torch.ones(2, 3))[:, :3] + 1))
    assert [call[1][1] is layer.packed for call in again.__self__.calls] == [True, True]
    again()


def test_attention_is_counted_backwards_too():
    q = torch.ones(2, 3, 7, 8, requires_grad=True)
    forward = count(lambda: F.scaled_dot_product_attention(q, q, q))[0].flop
    both = count(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())[0].flop
    assert both >= 3 * forward > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the peak of what came before stays")
def test_memory_is_what_a_call_adds_at_its_peak():
    peak = memory.peak_of(functools.partial(functools.partial, torch.ones, 2**24), CPU)
    assert 64e6 < peak < 80e6


# From start to end ------------------------------------------------------------------------------------------------


def test_the_bench_runs_from_start_to_end_and_writes_json(tmp_path, capsys):
    out, names = tmp_path / "bench.json", ["sample-digits-1", "encode-256", "train-digits-tokens", "raster-cached"]
    assert run.main(["--quick", "--threads", "1", "--out", str(out), "--only", *names]) == 0
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["quick"] and found["machine"]["threads"] == 1 and found["machine"]["cores"] > 0
    assert [row["name"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert row["name"] in printed
        assert {workloads.MINIVAR, workloads.REFERENCE, PRODUCT, COPY} <= row["seconds"].keys()
        for seconds in row["seconds"].values():
            assert 0 < seconds["low"] <= seconds["median"] <= seconds["high"]
        assert row["gflop"] > 0 and row["gigabytes"] > 0 and row["gflop_per_second"] > 0
        assert row["peak_bytes"].keys() == {workloads.MINIVAR, workloads.REFERENCE}
        assert row["bound"] in ("compute", "memory")
        compared = {"against_reference", "reference_against_old", "share_of_product", "share_of_roofline"}
        assert all(row[key] is None or row[key] > 0 for key in compared)
        assert row["busy"] is None or "limit" in row["busy"]


@pytest.mark.parametrize("words", [["--device", "cuda:99"], ["--only", "nothing"]], ids=" ".join)
def test_what_is_not_there_is_refused_in_a_sentence(words, capsys):
    assert run.main(words) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and words[1] in said.err and not said.out


def test_all_workloads_are_listed(capsys):
    assert run.main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [workload.name for workload in workloads.workloads()]
    assert [line.split()[0] for line in listed if "--full" in line] == ["sample-d16-64"]
