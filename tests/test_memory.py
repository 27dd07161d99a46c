"""What a step keeps, as traced on a GPU that is not there: against figures by hand, real forwards, and real peaks."""

import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from conftest import NETS, tokenizer_config, var_config
from torch import nn

from minivar import presets
from minivar.analysis import memory, planner
from minivar.analysis.live_bytes import LiveBytes
from minivar.models import GPT, VAR, GPTConfig, build
from minivar.sampling import KVCache, cache_bytes, filter_logits, guide, sample
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE, DiscriminatorConfig, LossConfig, NetConfig, TokenizerLoss
from minivar.tokenizer.nets import ResBlock
from minivar.training import TrainConfig
from minivar.training.recompute import recompute as recompute_activations

SMALL = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 50, "num_classes": 5, "hidden": 64}
GPT_SMALL = GPTConfig(dropout=0.0, **SMALL)  # of dropout, a CPU keeps four bytes where a GPU keeps one
GAN = LossConfig(perceptual=0.0, adaptive=False, gan_start=0.0, discriminator=DiscriminatorConfig(8, 1, groups=4))


def test_autocast_does_on_the_fake_gpu_what_it_does_on_a_real_one():
    with memory.fake_gpu():
        conv, norm = nn.Conv2d(8, 8, 3, device="cuda"), nn.GroupNorm(4, 8, device="cuda")
        linear, pixels = nn.Linear(6, 6, device="cuda"), torch.zeros(2, 8, 8, 8, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            seen = {"conv": conv(pixels), "linear": linear(conv(pixels)), "group norm": norm(conv(pixels))}
            seen["layer norm"] = F.layer_norm(seen["linear"], (6,))
            seen["loss"] = F.mse_loss(conv(pixels), conv(pixels))
            seen["attention"] = F.scaled_dot_product_attention(*3 * [seen["conv"]])
    assert {tensor.device.type for tensor in seen.values()} == {"cuda"}
    low = {name for name, tensor in seen.items() if tensor.dtype == torch.bfloat16}
    assert low == {"conv", "linear", "attention"}
    assert {seen[name].dtype for name in seen.keys() - low} == {torch.float32}


def test_outside_of_the_trace_everything_is_as_before():
    before = torch.cuda.is_available(), torch.cuda.amp.common.amp_definitely_not_available()
    with pytest.raises(KeyError), memory.fake_gpu():
        raise KeyError
    assert (torch.cuda.is_available(), torch.cuda.amp.common.amp_definitely_not_available()) == before
    assert torch.zeros(1)[0].item() == 0  # a real tensor


def test_a_residual_block_keeps_twenty_bytes_a_number():
    """Norms read and write float32, SiLU keeps what it read, convolutions bfloat16: 4 + 4 + 2, twice over."""
    channels, side = 8, 16

    def kept(images: int) -> int:
        with memory.fake_gpu(), torch.device("cuda"):
            block = ResBlock(channels, channels, NetConfig(base_channels=channels, groups=4))

            def step():
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    return block(torch.zeros(images, channels, side, side, device="cuda")).sum()

            return memory.kept_bytes(block, step).all

    numbers = channels * side**2
    statistics = 2 * 2 * 4 * 4  # mean and deviation of four groups, of two norms, in float32
    assert kept(3) - kept(2) == 20 * numbers + statistics


def test_kept_bytes_of_a_known_graph():
    class Known(nn.Module):
        config = GPT_SMALL

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(7, 50))

        def forward(self, labels, inputs):
            return torch.ones(len(labels), 16, 7) @ self.weight  # keeps its input: 16 x 7 floats an image

    # and cross-entropy keeps log-probabilities, 16 x 50 floats, its targets, 16 integers, and the sum of weights
    model = Known()
    extra = [memory.kept_bytes(model, lambda n=n: memory.transformer_step(model, n, None)).all for n in (1, 2)]
    assert extra[1] - extra[0] == 4 * 16 * 7 + 4 * 16 * 50 + 8 * 16


@pytest.mark.parametrize("config", [var_config(), GPT_SMALL], ids=["VAR", "GPT"])
def test_the_trace_of_a_transformer_is_that_of_a_real_forward(config):
    model = (GPT if isinstance(config, GPTConfig) else VAR)(config).train()
    traced = memory.transformer_activations(config, precision=None)
    for images in (1, 3):
        real = memory.kept_bytes(model, lambda n=images: memory.transformer_step(model, n, None)).all
        assert traced.of(images) == pytest.approx(real, rel=0.05)  # attention is another kernel there


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("config", [var_config(depth=7, drop_path=0.1), GPTConfig(**{**SMALL, "depth": 6})])
def test_three_blocks_tell_what_all_of_them_keep(config, again):
    with torch.device("meta"):
        model = build(config).train()
    whole = memory._traced((model,), lambda model, images: memory.transformer_step(model, images), again)
    assert memory.transformer_activations(config, again) == whole


def test_the_trace_of_a_tokenizer_is_that_of_a_real_forward():
    config = tokenizer_config()
    tokenizer, objective = VQVAE(config), TokenizerLoss(GAN, 1, steps=10)
    traced = memory.tokenizer_activations(config, GAN, precision=None)
    for images in (2, 5):
        step = lambda n=images: memory.tokenizer_step(tokenizer, objective, n, None)  # noqa: E731
        assert traced.of(images) == pytest.approx(memory.kept_bytes(tokenizer, step, [objective]).all, rel=0.03)


@pytest.mark.parametrize("again", [False, True])
def test_the_trace_foretells_the_worst_moment_of_a_real_step(again):
    """Not in the plan: gradients on their way. Too much in it: inputs of units that are through by then."""
    config = tokenizer_config(nets=dataclasses.replace(NETS, res_blocks=3), image_size=16)
    peaks = []
    for images in (8, 16):
        tokenizer, objective = VQVAE(config), TokenizerLoss(GAN, 1, steps=10)
        if again:
            recompute_activations(tokenizer)
        for parameter in tokenizer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with LiveBytes() as live:
            memory.tokenizer_step(tokenizer, objective, images, None).backward()
        peaks.append(live.peak)
    planned = memory.tokenizer_activations(config, GAN, again, precision=None).per_image
    assert 0.8 < planned / ((peaks[1] - peaks[0]) / 8) < 1.3


def test_recomputation_keeps_less_of_every_kind():
    duel, emoji = presets.get("duel-var"), presets.get("emoji")
    for trace, what in (
        (memory.transformer_activations, (duel.model,)),
        (memory.tokenizer_activations, (emoji.tokenizer, emoji.tokenizer_loss)),
    ):
        plain, again = (trace(*what, recompute).per_image for recompute in (False, True))
        assert again < 0.6 * plain


def test_perception_and_discriminator_are_kept_too():
    config = tokenizer_config(image_size=32, schedule=presets.get("emoji").model.schedule)
    losses = [dataclasses.replace(GAN, gan=0.0), GAN, dataclasses.replace(GAN, perceptual=1.0)]
    pixels, gan, both = (memory.tokenizer_activations(config, loss).per_image for loss in losses)
    assert pixels < gan < both
    # VGG-16 keeps at least what its five stages put out of the reconstruction, in bfloat16
    stages = sum(count * channels * (32 // 2**i) ** 2 for i, (count, channels) in enumerate(VGG_STAGES))
    assert both - gan > 2 * stages


VGG_STAGES = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]  # convolutions and channels


@pytest.mark.slow
def test_the_published_tokenizers_keep_what_norms_in_float32_keep():
    """The figures of chapter 13: 1.07 GB under a CPU's autocast were 1.74 on a GPU, for encoder and decoder alone."""
    found = {}
    for name in ("llamagen-l-256", "var-d16", "var-d36-s"):
        preset = presets.get(name)
        found[name] = memory.tokenizer_activations(preset.tokenizer, preset.tokenizer_loss).per_image / 1e9
    assert found["llamagen-l-256"] == pytest.approx(1.55, rel=0.03)
    assert found["var-d36-s"] == pytest.approx(7.6, rel=0.03)
    assert found["var-d36-s"] == pytest.approx(4 * found["var-d16"], rel=0.03)


WIDER = var_config(depth=4, width=128, heads=4, codebook_size=256, schedule=ScaleSchedule((1, 2, 4, 8)))
GPT_WIDER = dataclasses.replace(GPT_SMALL, depth=4, width=128, heads=4, grid=(8, 8), hidden=384, codebook_size=256)


@pytest.mark.parametrize("images", [2, 16])
@pytest.mark.parametrize("config", [WIDER, GPT_WIDER], ids=["VAR", "GPT"])
def test_a_training_step_takes_the_memory_that_is_planned(config, images, monkeypatch):
    """Within 15 %: weights, gradients, AdamW's averages, activations; in float32, with the mask that a GPU takes."""
    monkeypatch.setattr("minivar.models.var.training_mask", ScaleSchedule.block_causal_mask)
    with LiveBytes() as live:
        model = build(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            memory.transformer_step(model, images, None).backward()
            optimizer.step()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    state = planner._state(parameters, TrainConfig(epochs=1, batch_size=images), gpus=1, sharded=False)
    planned = sum(state.values()) + memory.transformer_activations(config, precision=None).of(images)
    assert live.peak == pytest.approx(planned, rel=0.15)


# Drawing -----------------------------------------------------------------------------------------------------------


def peak_of_drawing(model: VAR, tokenizer: VQVAE, images: int, device: str) -> int:
    """Bytes at the worst moment of drawing guided images, weights not counted."""
    labels = torch.zeros(images, dtype=torch.int64, device=device)
    unchecked = mock.patch("minivar.sampling.next_scale.check_sampling")  # nobody knows the labels of a fake GPU
    with unchecked, LiveBytes() as live:
        sample(model, tokenizer, labels, cfg=1.5, top_k=3, top_p=0.9)
    return live.peak


def peak_of_a_scale(model: VAR, images: int, device: str) -> int:
    """Bytes that the last scale takes at its worst moment, in a block or in the head, caches not counted."""
    config, k = model.config, model.schedule.num_scales - 1
    rows, count = 2 * images, model.schedule.counts[-1]
    cache = KVCache(model.schedule.num_tokens)
    heads = (rows, config.heads, model.schedule.bounds[k][0], config.width // config.heads)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    cache.append(*(torch.zeros(heads, device=device, dtype=dtype) for _ in range(2)))
    with torch.no_grad(), LiveBytes() as live:
        cond, blocks = model.condition(torch.zeros(rows, dtype=torch.int64, device=device))
        x = torch.zeros(rows, count, config.width, device=device)
        filter_logits(guide(model.logits(model.blocks[0](x, blocks, None, cache), cond), 1.5), 3, 0.9).softmax(-1)
    return live.peak


@pytest.mark.parametrize("name", ["var-d16", "var-d30", "var-d36-s"])
def test_drawing_holds_weights_caches_and_one_scale(name):
    """Of the published shapes, in bfloat16 on a GPU that is not there; decoding comes when the caches are gone."""
    preset, images = presets.get(name), 2
    with torch.device("meta"):
        model, tokenizer = VAR(preset.model), VQVAE(preset.tokenizer)
    with memory.fake_gpu(), torch.autocast("cuda", dtype=torch.bfloat16):
        model, tokenizer = (
            module.to_empty(device="cuda").eval().requires_grad_(False) for module in (model, tokenizer)
        )
        with mock.patch.object(VQVAE, "decode_features", lambda self, f_hat_BChw: f_hat_BChw):
            drawing = peak_of_drawing(model, tokenizer, images, "cuda")
        scale = peak_of_a_scale(model, images, "cuda")
    caches = images * cache_bytes(preset.model, "bf16")
    assert caches < drawing < 1.02 * caches + 1.5 * scale  # the half: logits and inputs of the scale before


def test_the_count_on_the_gpu_that_is_not_there_is_that_of_a_real_drawing():
    config, peaks = tokenizer_config(schedule=WIDER.schedule, image_size=32, codebook_size=256), {}
    model, tokenizer = VAR(WIDER).eval(), VQVAE(config).eval()
    peaks["real"] = peak_of_drawing(model, tokenizer, 3, "cpu")
    with torch.device("meta"):
        model, tokenizer = VAR(WIDER), VQVAE(config)
    with memory.fake_gpu():
        model, tokenizer = (module.to_empty(device="cuda").eval() for module in (model, tokenizer))
        peaks["counted"] = peak_of_drawing(model, tokenizer, 3, "cuda")
    assert peaks["counted"] == pytest.approx(peaks["real"], rel=0.05)
