"""Losses of a tokenizer: values by hand, where gradients go and must not go, when the discriminator starts."""

import math
import os
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from conftest import tokenizer_config, wake
from torch import nn

from minivar import checkpoints, data
from minivar.evaluation import codebook_usage
from minivar.tokenizer import VQVAE, DiscriminatorConfig, PatchDiscriminator
from minivar.tokenizer.losses import (
    LLAMAGEN_LOSS,
    PIXEL_LOSS,
    VAR_LOSS,
    LeCam,
    LossConfig,
    LossError,
    Perceptual,
    TokenizerLoss,
    adaptive_weight,
    codebook_entropy,
    hinge_discriminator_loss,
    hinge_generator_loss,
    pixel_loss,
    r1_penalty,
)

SMALL = DiscriminatorConfig(base_channels=8, layers=1, groups=4)


def config(**other) -> LossConfig:
    """No LPIPS and a small discriminator that is there from the first step, at its full weight."""
    return LossConfig(**{"perceptual": 0.0, "gan_start": 0.0, "gan_warmup": 0.0, "discriminator": SMALL, **other})


def one_sentence(error) -> str:
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text
    return text


# Settings ---------------------------------------------------------------------------------------------------------


def test_published_recipes():
    assert (VAR_LOSS.l1, VAR_LOSS.l2, VAR_LOSS.perceptual, VAR_LOSS.gan) == (0.2, 1.0, 1.0, 0.4)
    assert (VAR_LOSS.adaptive, VAR_LOSS.gan_start, VAR_LOSS.lecam, VAR_LOSS.r1) == (True, 0.22, 0, 0)
    assert (LLAMAGEN_LOSS.l1, LLAMAGEN_LOSS.l2, LLAMAGEN_LOSS.perceptual, LLAMAGEN_LOSS.gan) == (0, 1, 1, 0.5)
    assert (LLAMAGEN_LOSS.adaptive, LLAMAGEN_LOSS.gan_start_step) == (False, 20_000)
    assert VAR_LOSS.entropy == LLAMAGEN_LOSS.entropy == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"l1": -0.1},
        {"gan": -1.0},
        {"perceptual": math.nan},
        {"r1": math.inf},
        {"gan_start": 1.5},
        {"gan_start": -0.1},
        {"gan_start_step": -1},
        {"gan_warmup": 2.0},
        {"lecam_decay": 1.0},
        {"entropy_temperature": 0.0},
        {"perceptual_size": 8},
    ],
)
def test_impossible_settings_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(LossError) as error:
        LossConfig(**wrong)
    assert name in one_sentence(error) and str(value) in str(error.value)


def test_settings_at_the_edge_of_what_is_possible_are_taken():
    LossConfig(l1=0.0, l2=0.0, perceptual=0.0, gan=0.0, lecam=0.0, r1=0.0, entropy=0.0)
    LossConfig(gan_start=0.0, gan_warmup=0.0, gan_start_step=0, lecam_decay=0.0, perceptual_size=16)
    LossConfig(gan_start=1.0, gan_warmup=1.0)


def test_a_start_after_the_end_is_refused():
    with pytest.raises(LossError, match="before step 100, the run's end; got 20000") as error:
        TokenizerLoss(LossConfig(perceptual=0.0, gan_start_step=20_000), channels=3, steps=100)
    one_sentence(error)
    with pytest.raises(LossError, match="before step 100, the run's end; got 100"):
        TokenizerLoss(config(gan_start_step=100), channels=3, steps=100)  # steps count from 0
    assert TokenizerLoss(config(gan_start_step=99), channels=3, steps=100).gan_factor(99) == 1
    assert TokenizerLoss(config(gan_start_step=99, gan=0.0), channels=3, steps=10).discriminator is None


# Values by hand ---------------------------------------------------------------------------------------------------


def test_pixel_loss_by_hand():
    images, reconstruction = torch.zeros(1, 1, 2, 2), torch.tensor([1.0, -1.0, 0.0, 2.0]).view(1, 1, 2, 2)
    loss, stats = pixel_loss(images, reconstruction, l1=0.2, l2=1.0)
    assert stats["l1"] == 1.0 and stats["mse"] == 1.5
    assert loss.item() == pytest.approx(0.2 * 1.0 + 1.5)
    assert pixel_loss(images, reconstruction)[0] == loss  # the weights of VAR's authors are the defaults
    assert pixel_loss(images, reconstruction, l1=2.0, l2=3.0)[0].item() == pytest.approx(2 * 1.0 + 3 * 1.5)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, -0.5, 1.0])
    # max(0, 1 - real) = 0, 0.5, 2 and max(0, 1 + fake) = 0, 0.5, 2
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 2.5 / 3))
    assert hinge_generator_loss(fake).item() == pytest.approx(0.5)
    assert hinge_discriminator_loss(torch.ones(4), -torch.ones(4)) == 0


def test_adaptive_weight_by_hand():
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    weight = adaptive_weight((3 * layer).sum(), 4 * layer[0], layer)
    assert weight.item() == pytest.approx(math.sqrt(18) / (4 + 1e-4))
    assert not weight.requires_grad and layer.grad is None


def test_adaptive_weight_is_finite_without_slopes():
    layer = torch.tensor([1.0, 2.0], requires_grad=True)
    flat, steep = (0 * layer).sum(), (3 * layer).sum()
    assert adaptive_weight(steep, flat, layer) == 1e4  # 4.2 / 0.0001, limited
    assert adaptive_weight(flat, steep, layer) == 0
    assert adaptive_weight(flat, flat, layer) == 0
    assert adaptive_weight(steep.detach(), steep.detach(), layer) == 0
    with pytest.raises(LossError, match="last_layer") as error:
        adaptive_weight(steep, steep, None)
    one_sentence(error)


def test_r1_of_a_linear_discriminator():
    weight = torch.randn(16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    images = torch.rand(5, 1, 4, 4, requires_grad=True)
    penalty = r1_penalty(images, images.flatten(1) @ weight, gamma=10.0)
    assert penalty.item() == pytest.approx(10 / 2 * weight.square().sum().item())
    penalty.backward()
    assert torch.allclose(weight.grad, 10 * weight)


def test_lecam_by_hand_and_its_state():
    lecam = LeCam(decay=0.9)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0])
    # The averages are those of the first batch, 2 and -0.5: (1.5^2 + 3.5^2) / 2 + (3^2 + 2^2) / 2
    assert lecam(real, fake).item() == pytest.approx((2.25 + 12.25) / 2 + (9 + 4) / 2)
    lecam(real + 1, fake)
    average = (0.9 * 0.1 * 2 + 0.1 * 3) / (1 - 0.9**2)
    assert (lecam.sums / (1 - 0.9**2)).tolist() == pytest.approx([average, -0.5])
    copy = LeCam(decay=0.9)
    copy.load_state_dict(lecam.state_dict())
    assert torch.equal(lecam(real, fake), copy(real, fake))
    before = lecam.sums.clone()
    lecam.eval()(real, fake)
    assert torch.equal(lecam.sums, before)
    assert LeCam().eval()(real, fake).isfinite()


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_codebook_entropy_by_hand(temperature):
    codes = torch.eye(4) * 10
    assert codebook_entropy(codes, codes).item() == pytest.approx(-math.log(4))  # sure, and each of its own code
    assert codebook_entropy(codes[:1].repeat(4, 1), codes).item() == pytest.approx(0, abs=1e-6)  # sure, all the same
    assert codebook_entropy(torch.zeros(4, 4), codes).item() == pytest.approx(0, abs=1e-5)  # undecided
    p = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # two vectors and two codes on a line
    # p_n = softmax(-(z_n - e)^2 / T) with e = 0 and 1: the log odds are (1 - 2 z) / T
    vectors = ((1 - temperature * (p[:, 0] / p[:, 1]).log()) / 2)[:, None]
    mean = p.mean(0)
    expected = -(p * p.log()).sum(1).mean() + (mean * mean.log()).sum()
    assert codebook_entropy(vectors, torch.tensor([[0.0], [1.0]]), temperature).item() == pytest.approx(
        expected.item()
    )


def test_codebook_entropy_has_finite_gradients():
    codes, vectors = torch.randn(8, 4).requires_grad_(), torch.randn(16, 4).requires_grad_()
    codebook_entropy(vectors, codes, 0.01).backward()
    assert codes.grad.isfinite().all() and codes.grad.any() and vectors.grad.isfinite().all()


# The discriminator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_sees_its_patch(layers):
    shape = DiscriminatorConfig(base_channels=4, layers=layers, norm="spectral")
    discriminator = PatchDiscriminator(shape, channels=1)
    side = 32 * 2**layers
    images = torch.rand(1, 1, side, side, requires_grad=True)
    logits = discriminator(images)
    assert logits.shape == (1, 1, side // 2**layers - 2, side // 2**layers - 2)
    logits[0, 0, 14, 14].backward()
    seen = images.grad[0, 0].ne(0)
    assert {1: 16, 2: 34, 3: 70}[layers] == shape.patch == int(seen.any(0).sum()) == int(seen.any(1).sum())


@pytest.mark.parametrize("norm", ["group", "spectral"])
def test_images_are_judged_one_by_one(norm):
    discriminator = PatchDiscriminator(DiscriminatorConfig(8, 2, norm, groups=4), channels=3).eval()
    images = torch.rand(4, 3, 28, 28)
    assert torch.allclose(discriminator(images)[2:], discriminator(images[2:]), atol=1e-6)


def test_smallest_images():
    shape = DiscriminatorConfig(4, 3, groups=4)
    discriminator = PatchDiscriminator(shape, channels=1)
    assert discriminator(torch.rand(1, 1, shape.smallest_image, 28)).shape == (1, 1, 1, 1)
    for wrong in ((1, 1, shape.smallest_image - 1, 28), (1, 3, 28, 28), (28, 28)):
        with pytest.raises(ValueError, match="of at least 24 pixels") as error:
            discriminator(torch.rand(wrong))
        assert str(wrong) in one_sentence(error)


@pytest.mark.parametrize("wrong", [{"norm": "batch"}, {"layers": 0}, {"base_channels": 10}])
def test_impossible_discriminators_are_refused(wrong):
    with pytest.raises(ValueError) as error:
        DiscriminatorConfig(**wrong)
    one_sentence(error)


@pytest.mark.parametrize("norm", ["group", "spectral"])
def test_the_discriminator_is_that_of_pix2pix(norm):
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(DiscriminatorConfig(base_channels=32, layers=5, norm=norm), channels=3)
    convs = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    widths = [(conv.in_channels, conv.out_channels, conv.stride[0]) for conv in convs]
    assert widths == [(3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2), (256, 256, 2), (256, 256, 1), (256, 1, 1)]
    assert all(conv.kernel_size == (4, 4) and conv.padding == (1, 1) for conv in convs)
    slopes = [module.negative_slope for module in discriminator.modules() if isinstance(module, nn.LeakyReLU)]
    assert slopes == [0.2] * 6
    for conv in convs[1:]:
        raw = conv.weight if norm == "group" else conv.parametrizations.weight.original
        assert raw.std().item() == pytest.approx(0.02, rel=0.05)
    normed = [module.num_channels for module in discriminator.modules() if isinstance(module, nn.GroupNorm)]
    assert normed == ([64, 128, 256, 256, 256] if norm == "group" else [])


# LPIPS, with random weights in place of the ones that would be downloaded -----------------------------------------


@pytest.fixture(scope="module")
def backbone_weights(tmp_path_factory):
    """A file as torchvision's, with random convolutions and one of the classifier's entries."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in vgg16().features.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        scale = math.sqrt(2 / shape[1:].numel()) if len(shape) > 1 else 0.1
        state[f"features.{key}"] = torch.randn(shape, generator=generator) * scale
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**state, "classifier.6.bias": torch.zeros(1000)}, path)
    return path


@pytest.fixture(scope="module")
def perceptual(backbone_weights):
    return Perceptual(backbone_weights)


def test_perceptual_distance(perceptual):
    images, other = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert perceptual(images, images) == 0
    near, far = perceptual(images, images.lerp(other, 0.1)), perceptual(images, other)
    assert 0 < near < far
    assert perceptual(images[:, :1], other[:, :1]).item() == pytest.approx(
        perceptual(images[:, :1].repeat(1, 3, 1, 1), other[:, :1].repeat(1, 3, 1, 1)).item()
    )


def test_perceptual_gradient_reaches_the_reconstruction_only(perceptual):
    perceptual.train()
    assert not any(module.training for module in perceptual.modules())
    assert not list(perceptual.parameters()) and not perceptual.state_dict()
    images = torch.rand(2, 3, 28, 28) * 2 - 1
    reconstruction = torch.zeros_like(images, requires_grad=True)
    perceptual(images, reconstruction).backward()
    assert reconstruction.grad.isfinite().all() and reconstruction.grad.abs().sum() > 0
    assert all(buffer.grad is None and not buffer.requires_grad for buffer in perceptual.buffers())


def test_perceptual_moves_with_its_module(perceptual):
    assert all(buffer.dtype == torch.float64 for buffer in perceptual.double().buffers())
    perceptual.float()


def test_perceptual_sizes(perceptual, backbone_weights):
    assert perceptual(torch.zeros(1, 1, 16, 40), torch.ones(1, 1, 16, 40)).isfinite()
    for wrong in ((1, 3, 15, 32), (1, 4, 32, 32), (32, 32), (1, 3, 32, 32, 32)):
        with pytest.raises(LossError, match="at least 16 pixels") as error:
            perceptual(torch.zeros(wrong), torch.zeros(wrong))
        assert str(wrong) in one_sentence(error)
    seen = []
    perceptual.size = 24
    hook = perceptual.lpips.scaling_layer.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[2:])
    )
    perceptual(torch.zeros(1, 3, 12, 20), torch.zeros(1, 3, 12, 20))
    perceptual(torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 28))
    hook.remove()
    perceptual.size = None
    assert [tuple(size) for size in seen] == [(24, 40)] * 2 + [(28, 28)] * 2


def test_without_network_the_alternatives_are_named(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(LossError) as error:
        TokenizerLoss(VAR_LOSS, channels=3, steps=100)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    for part in ("download.pytorch.org", "Name or service not known", "backbone_weights", "perceptual weight to 0"):
        assert part in text
    TokenizerLoss(LossConfig(perceptual=0.0), channels=3, steps=100)  # the second alternative


def test_wrong_weights_files_are_named(backbone_weights, tmp_path):
    class Stranger:
        pass

    wrong = {name: tmp_path / name for name in ("missing.pth", "cut.pth", "text.pth", "object.pth", "other.pth")}
    wrong["cut.pth"].write_bytes(backbone_weights.read_bytes()[:100_000])
    wrong["text.pth"].write_text("weights")
    torch.save({"features.0.weight": nn.ReLU()}, wrong["object.pth"])
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, wrong["other.pth"])
    for path in wrong.values():
        with pytest.raises(LossError) as error:
            Perceptual(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert "torchvision's vgg16" in str(error.value)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "short.pth")
    with pytest.raises(LossError, match=r"expected features.0.bias of shape \(64,\), got None"):
        Perceptual(tmp_path / "short.pth")


# All of it: where gradients go ------------------------------------------------------------------------------------


def tokenizer_gradients(tokenizer: VQVAE, loss: torch.Tensor) -> dict[str, float]:
    tokenizer.zero_grad()
    loss.backward()
    parts = {"encoder": tokenizer.encoder, "decoder": tokenizer.decoder}
    return {n: sum(p.grad.abs().sum().item() for p in part.parameters()) for n, part in parts.items()}


@pytest.mark.parametrize("norm", ["group", "spectral"])
def test_the_gan_reaches_encoder_and_decoder_but_not_the_discriminator(tokenizer, images, norm):
    shape = DiscriminatorConfig(8, 1, norm, groups=4)
    loss = TokenizerLoss(config(l1=0.0, l2=0.0, adaptive=False, discriminator=shape), channels=1, steps=10)
    total, stats = loss(images, tokenizer(images).reconstruction, torch.zeros(()), step=0)
    assert total.item() == pytest.approx(0.4 * stats["generator_loss"].item())
    assert all(value > 0 for value in tokenizer_gradients(tokenizer, total).values())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in loss.parameters())


def test_lpips_reaches_encoder_and_decoder(tokenizer, images, backbone_weights):
    loss = TokenizerLoss(config(l1=0.0, l2=0.0, perceptual=2.0, gan=0.0), 1, 10, backbone_weights)
    total, stats = loss(images, tokenizer(images).reconstruction, torch.zeros(()), step=0)
    assert total.item() == pytest.approx(2 * stats["perceptual"].item())
    assert all(value > 0 for value in tokenizer_gradients(tokenizer, total).values())
    assert not list(loss.parameters()) and not loss.state_dict()
    both = TokenizerLoss(config(perceptual=2.0), 1, 10, backbone_weights)
    assert all(key.startswith("discriminator.") for key in both.state_dict())


def test_the_discriminator_step_reaches_the_discriminator_only(tokenizer, images):
    loss = TokenizerLoss(config(lecam=0.1, r1=1.0), channels=1, steps=10)
    total, stats = loss.discriminator_loss(images, tokenizer(images).reconstruction, step=0)
    total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())
    assert all(parameter.grad.any() for name, parameter in loss.named_parameters() if name.endswith("weight"))
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    assert images.grad is None and not images.requires_grad
    logits = [loss.discriminator(x).mean() for x in (images, tokenizer(images).reconstruction)]
    assert stats["logits_real"].item() == pytest.approx(logits[0].item(), abs=1e-6)
    assert stats["logits_fake"].item() == pytest.approx(logits[1].item(), abs=1e-6)
    parts = stats["discriminator_loss"] + 0.1 * stats["lecam"] + stats["r1"]
    assert total.item() == pytest.approx(parts.item())


def test_the_total_is_the_sum_of_its_parts(tokenizer, images):
    loss = TokenizerLoss(config(entropy=0.1), channels=1, steps=10)
    out = tokenizer(images)
    last_layer, vectors = tokenizer.decoder.conv_out.weight, torch.cat(out.residuals)
    total, stats = loss(images, out.reconstruction, out.loss, 0, last_layer, vectors, tokenizer.quantizer.codes)
    expected = 0.2 * F.l1_loss(out.reconstruction, images) + F.mse_loss(out.reconstruction, images)
    weight = 0.4 * adaptive_weight(expected, hinge_generator_loss(loss.discriminator(out.reconstruction)), last_layer)
    assert stats["gan_weight"].item() == pytest.approx(weight.item(), rel=1e-5)
    expected = expected + out.loss + 0.1 * stats["entropy"] + weight * stats["generator_loss"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(value.requires_grad for value in stats.values())
    with pytest.raises(LossError, match="vectors and the codes") as error:
        loss(images, out.reconstruction, out.loss, 0, last_layer)
    one_sentence(error)


def test_low_precision_inputs_give_a_float32_loss(tokenizer, images):
    loss = TokenizerLoss(config(), channels=1, steps=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = tokenizer(images)
        total, _ = loss(images, out.reconstruction, out.loss, 0, tokenizer.decoder.conv_out.weight)
        judged, _ = loss.discriminator_loss(images, out.reconstruction, 0)
    assert total.dtype == judged.dtype == torch.float32 and total.isfinite() and judged.isfinite()


def test_validation_needs_no_gradients(tokenizer, images):
    loss = TokenizerLoss(config(r1=1.0, lecam=0.1), channels=1, steps=10).eval()
    with torch.no_grad():
        out = tokenizer(images)
        total, stats = loss(images, out.reconstruction, out.loss, 5)
        judged, _ = loss.discriminator_loss(images, out.reconstruction, 5)
    assert total.isfinite() and judged.isfinite() and stats["gan_weight"] == 0


# When the discriminator starts, and what a resumed run needs ------------------------------------------------------


def test_the_discriminator_does_not_start_early(tokenizer, images):
    loss = TokenizerLoss(config(gan_start=0.22, gan_warmup=0.1, lecam=0.1, r1=1.0), channels=1, steps=100)
    loss.discriminator.register_forward_hook(lambda *_: pytest.fail("used") if step < 22 else None)
    pixels = TokenizerLoss(PIXEL_LOSS, channels=1, steps=100)
    names = set()
    for step in (0, 21, 22, 26, 31, 99):
        out = tokenizer(images)
        total, stats = loss(images, out.reconstruction, out.loss, step, tokenizer.decoder.conv_out.weight)
        judged, judgement = loss.discriminator_loss(images, out.reconstruction, step)
        plain, _ = pixels(images, out.reconstruction, out.loss, step)
        names.add((*stats, *judgement))
        assert judged.requires_grad == (step >= 22)
        if step < 22:
            assert total == plain and stats["generator_loss"] == stats["gan_weight"] == 0
            assert judged == 0 and not any(judgement.values()) and loss.lecam.updates == 0
        else:
            assert total != plain and stats["gan_weight"] > 0 and judged > 0
    assert len(names) == 1  # the log has the same columns throughout
    assert [loss.gan_factor(step) for step in (0, 21, 22, 26, 31, 99)] == [0, 0, 0.1, 0.5, 1, 1]
    assert pixels.discriminator_loss(images, images, 99) == (torch.zeros(()), {})


def test_llamagen_starts_at_a_step_with_a_constant_weight(tokenizer, images):
    recipe = {"l1": 0.0, "gan": 0.5, "adaptive": False, "gan_start_step": 20, "gan_warmup": 0.0}
    loss = TokenizerLoss(config(**recipe), channels=1, steps=100)
    assert [loss.gan_factor(step) for step in (19, 20, 99)] == [0, 1, 1]
    assert loss(images, images * 0.5, torch.zeros(()), 20)[1]["gan_weight"] == 0.5


def train(loss: TokenizerLoss, tokenizer: VQVAE, batches, optimisers, first: int = 0) -> list:
    """A training loop as ``TokenizerLoss`` describes it; returns its statistics, step by step."""
    log, (optimiser, of_discriminator) = [], optimisers
    for step, images in enumerate(batches, first):
        out = tokenizer(images)
        total, stats = loss(images, out.reconstruction, out.loss, step, tokenizer.decoder.conv_out.weight)
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimiser.step()
        judged, judgement = loss.discriminator_loss(images, out.reconstruction, step)
        if judged.requires_grad:
            of_discriminator.zero_grad()
            judged.backward()
            of_discriminator.step()
        log.append({name: value.item() for name, value in {**stats, **judgement}.items()})
        if step % 10 == 0:
            tokenizer.quantizer.revive_dead_codes(out.residuals)
    return log


def test_a_run_resumes_from_the_state_dict():
    batches = torch.rand(6, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    settings = config(lecam=0.1, r1=1.0, gan_start=0.3)

    def parts():
        torch.manual_seed(0)
        tokenizer, loss = VQVAE(tokenizer_config()).train(), TokenizerLoss(settings, channels=1, steps=6)
        return tokenizer, loss, [torch.optim.SGD(m.parameters(), 0.01) for m in (tokenizer, loss)]

    tokenizer, loss, optimisers = parts()
    whole = train(loss, tokenizer, batches, optimisers)
    tokenizer, loss, optimisers = parts()
    train(loss, tokenizer, batches[:4], optimisers)
    torch.manual_seed(1)
    again = TokenizerLoss(settings, channels=1, steps=6)
    again.load_state_dict(loss.state_dict())
    assert again.lecam.updates == 2
    optimisers[1] = torch.optim.SGD(again.parameters(), 0.01)
    assert train(again, tokenizer, batches[4:], optimisers, first=4) == whole[4:]


def test_gan_training_keeps_the_codebook_in_use():
    """A new decoder for the shipped tokenizer: real and rebuilt are easy to tell apart, the codebook must last."""
    torch.manual_seed(0)
    tokenizer, _ = checkpoints.load(data.DATA_ROOT / "checkpoints/digits/tokenizer.safetensors")
    tokenizer.decoder.load_state_dict(VQVAE(tokenizer.config).decoder.state_dict())
    tokenizer.requires_grad_(True).train()
    shape = DiscriminatorConfig(base_channels=16, layers=2, norm="spectral")
    loss = TokenizerLoss(config(gan_start=0.25, discriminator=shape), channels=1, steps=40)
    rates = ((tokenizer, 2e-3), (loss, 1e-3))
    optimisers = [torch.optim.AdamW(module.parameters(), rate, betas=(0.5, 0.9)) for module, rate in rates]
    digits = data.load_digits("train")
    log = train(loss, tokenizer, [digits.batch(slice(16 * i, 16 * i + 16))[0] for i in range(40)], optimisers)
    assert all(math.isfinite(value) for entry in log for value in entry.values())
    accuracy = [entry["discriminator_accuracy"] for entry in log]
    assert max(accuracy[:10]) == 0 and accuracy[10] == pytest.approx(0.5, abs=0.1)
    assert sum(accuracy[-10:]) / 10 > 0.65  # with three seeds: 0.85, 0.78, 0.92
    assert log[-1]["mse"] < 0.5 * log[0]["mse"]
    tokens = tokenizer.eval().encode(data.load_digits("heldout").batch(slice(0, 500))[0])
    used = [entry["used"] for entry in codebook_usage(tokens, tokenizer.config.codebook_size)]
    # Of 512 codes: 0.33, 0.60, 0.48, 0.91 before; with three seeds at least 0.11, 0.37, 0.28, 0.72 after
    assert all(share > floor for share, floor in zip(used, (0.05, 0.25, 0.2, 0.5)))


# Several processes ------------------------------------------------------------------------------------------------


def _replica(rank: int, ranks: int, folder: str) -> None:
    """Three steps on this rank's share of each batch, tokenizer and discriminator under DDP."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    if ranks > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/{ranks}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    wrap = nn.parallel.DistributedDataParallel if ranks > 1 else (lambda module: module)
    tokenizer = wake(VQVAE(tokenizer_config(num_phi=2)))  # of four, three scales leave one unused, which stops DDP
    loss = TokenizerLoss(config(lecam=0.1, r1=1.0), channels=1, steps=3)
    wrapped, judge = wrap(tokenizer), wrap(loss.discriminator)
    both = [torch.optim.SGD(m.parameters(), 0.01) for m in (tokenizer, loss)]
    batches = torch.rand(3, 4, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for step, images in enumerate(batches):
        images = images.chunk(ranks)[rank]
        out = wrapped(images)
        total, stats = loss(images, out.reconstruction, out.loss, step, tokenizer.decoder.conv_out.weight)
        for optimiser in both:
            optimiser.zero_grad()
        total.backward()
        both[0].step()
        loss.discriminator_loss(images, out.reconstruction, step, judge)[0].backward()
        both[1].step()
    state = {**tokenizer.state_dict(), **loss.state_dict(), "gan_weight": stats["gan_weight"]}
    torch.save(state, f"{folder}/{ranks}.{rank}.pth")
    if ranks > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one(tmp_path):
    _replica(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(_replica, (2, str(tmp_path)), nprocs=2)
    one, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("1.0.pth", "2.0.pth", "2.1.pth")
    )
    for key, value in one.items():
        assert torch.allclose(first[key], value, atol=1e-5), key
        assert torch.allclose(second[key], value, atol=1e-5), key
