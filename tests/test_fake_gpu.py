"""What a GPU would refuse: tensors on two devices, the wrong precision, and waiting for a number in the hot loop."""

import dataclasses

import pytest
import torch
from conftest import tokenizer_config, var_config
from fake_gpu import DEVICE, dtypes_of, fake_gpu
from test_gan_training import GAN
from test_train import TINY, blobs
from torch._subclasses.fake_tensor import unset_fake_temporarily

from minivar import presets, sampling
from minivar.distributed import Ranks
from minivar.models import GPT, VAR, GPTConfig
from minivar.precision import PRECISIONS, autocast
from minivar.tokenizer import VQVAE
from minivar.tokenizer.losses import TokenizerLoss
from minivar.training import GPTTask, TokenizerTask, VARTask, loop
from minivar.training.recompute import recompute

GRID = GPTConfig(depth=2, width=32, heads=2, grid=(4, 4), codebook_size=16, num_classes=5, hidden=64)


DATA = blobs()


class OnTheGPU:
    """In place of ``Batches``: every batch is there already, as a loader that pins memory would bring it."""

    def __init__(self, data, config, ranks):
        self.steps, self.config = 100, config

    def epoch(self, step):
        return 0

    def parts(self, step):
        return torch.zeros(
            self.config.accumulate, self.config.batch_size // self.config.accumulate, dtype=torch.int64
        )


def on_the_gpu(make, *args, **options):
    """A module on the fake GPU, within ``fake_gpu``; its construction may look at numbers and takes place outside."""
    with unset_fake_temporarily(), torch.device("meta"):
        module = make(*args, **options)
    return module.to_empty(device=DEVICE)


@pytest.fixture(autouse=True)
def _modules_stay_where_they_are(monkeypatch):
    """Fake tensors cannot be laid out anew: ``module.to`` with a memory format fails for them."""

    def to(module, device, **_):
        assert {tensor.device for tensor in module.parameters()} <= {torch.device(device)}
        return module

    monkeypatch.setattr(torch.nn.Module, "to", to)


def task_of(kind: str):
    """A task on the fake GPU, without validation."""
    data = DATA
    single = {"quantizer": "single", "schedule": None}
    tokenizer = on_the_gpu(VQVAE, tokenizer_config(**(single if kind == "gpt" else {})))
    if kind in ("tokenizer", "gan"):
        task = TokenizerTask(tokenizer, data, steps=100)
        if kind == "gan":
            task.objective = on_the_gpu(TokenizerLoss, GAN, 1, 100)
            task.discriminator = task.objective.discriminator
            task.remembers = task.objective
        return task
    model = on_the_gpu(GPT, GRID) if kind == "gpt" else on_the_gpu(VAR, var_config(drop_path=0.1))
    return (GPTTask if kind == "gpt" else VARTask)(model, tokenizer, data, DEVICE)


@pytest.mark.parametrize(
    ("kind", "precision", "ema", "accumulate"),
    [
        ("tokenizer", "float32", 0.0, 1),
        ("gan", "bf16", 0.999, 2),
        ("gan", "fp16", 0.0, 1),
        ("var", "bf16", 0.999, 2),
        ("var", "fp16", 0.0, 1),
        ("gpt", "bf16", 0.0, 1),
    ],
)
def test_a_training_step_on_a_gpu_waits_for_nothing(kind, precision, ema, accumulate, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Batches", OnTheGPU)
    config = dataclasses.replace(TINY, precision=precision, ema=ema, accumulate=accumulate, log_every=4)
    with fake_gpu():
        task = task_of(kind)
        monkeypatch.setattr(type(DATA), "fingerprint", 0)  # which looks at its pixels
        run = loop.Run(task, config, tmp_path, {}, Ranks(DEVICE))
        run.watch = loop.Watch(task.name, None, 0, 100, config, progress=False)
        run.model.train()
        heads = set()
        if hasattr(task.model, "head"):
            task.model.head.register_forward_hook(lambda module, given, out: heads.add(out.dtype))
        step = 40  # after the discriminator's start, and not at an entry of the log
        with dtypes_of("convolution", "mm", "addmm", "native_group_norm") as found:
            stats = run.forward_and_backward(step)
            stats = run.check_finite(step, stats)
            run.update(step)
            run.log(step + 1, stats)
        kept = [*task.model.parameters(), *run.averaged.weights.values()]
        assert {(each.device, each.dtype) for each in kept} == {(DEVICE, torch.float32)}
        assert not found["copied to the CPU"]
        # VAR's head is in float32; the tokenizer has none, and GPT's is like everything else, as in LlamaGen.
        assert heads == {"var": {torch.float32}, "gpt": {PRECISIONS[precision]}}.get(kind, set())
        assert stats["loss"].dtype == torch.float32
        products = found["convolution"] | found["mm"] | found["addmm"]
    # Under autocast most products are in 16 bits; the quantiser stays in float32.
    assert products - {torch.float32} == {PRECISIONS[precision]} - {None}
    assert found["native_group_norm"] <= {torch.float32}


@pytest.mark.parametrize("kind", ["var", "gpt"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_sampling_on_a_gpu_keeps_a_cache_of_its_precision(kind, precision, monkeypatch):
    dtypes = set()
    original = sampling.KVCache.append

    def append(self, k, v):
        dtypes.update((k.dtype, v.dtype))
        return original(self, k, v)

    monkeypatch.setattr(sampling.KVCache, "append", append)
    with fake_gpu():
        task = task_of(kind)
        labels = torch.zeros(3, dtype=torch.int64, device=DEVICE)
        monkeypatch.setattr("minivar.sampling.next_scale.check_labels", lambda *_: None)
        monkeypatch.setattr("minivar.sampling.raster.check_labels", lambda *_: None)
        with autocast(DEVICE, precision):
            drawn = sampling.generate(task.model.eval(), task.tokenizer, labels, cfg=2.0)
    assert drawn.images.shape == (3, 1, 16, 16) and drawn.images.device == DEVICE
    assert drawn.tokens.device == DEVICE
    assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_encoding_on_a_gpu_waits_for_nothing():
    with fake_gpu():
        tokenizer = on_the_gpu(VQVAE, presets.get("var-d16").tokenizer).eval()
        images = torch.zeros(2, 3, 256, 256, device=DEVICE)
        with autocast(DEVICE, "bf16"), dtypes_of("convolution", "native_group_norm", "addmm") as found:
            tokens = tokenizer.encode(images)
        assert not found["copied to the CPU"]
    assert [part.shape[1] for part in tokens] == [1, 4, 9, 16, 25, 36, 64, 100, 169, 256]
    assert torch.bfloat16 in found["convolution"]
    assert found["addmm"] == {torch.float32} == found["native_group_norm"]  # distances between codes


# Compilation --------------------------------------------------------------------------------------------------------


def compiled_graphs(function, *batches) -> int:
    """How many graphs torch.compile makes for these calls, backward passes included; a break in one is an error."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = torch.compile(function, fullgraph=True, backend="aot_eager")
    for batch in batches:
        run(*batch).backward()
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def batches_of(count: int, *shapes):
    """Random inputs: an int is for labels or tokens below 5, of that shape, a tuple for floats."""
    for _ in range(count):
        yield [torch.randint(5, shape[1:]) if shape[0] == "int" else torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize(("kind", "recomputed"), [("var", True), ("gpt", False), ("tokenizer", False)])
def test_a_forward_pass_is_one_graph_without_breaks(kind, recomputed):
    torch.manual_seed(0)
    if kind == "tokenizer":
        model = VQVAE(tokenizer_config()).train()
        inputs = [[torch.rand(4, 1, 16, 16) * 2 - 1] for _ in range(3)]

        def loss(images):
            out = run(images)
            return out.reconstruction.square().mean() + out.loss
    else:
        model = (GPT(GRID) if kind == "gpt" else VAR(var_config(drop_path=0.1))).train()
        second = ("int", 4, 15) if kind == "gpt" else (4, 20, 4)
        inputs = list(batches_of(3, ("int", 4), second))

        def loss(labels, others):
            return run(labels, others).square().mean()

    if recomputed:
        recompute(model)
    run = model
    assert compiled_graphs(loss, *inputs) == 1
