"""One grid of tokens, with and without projection onto the unit sphere."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NETS, wake

from minivar import checkpoints
from minivar.models import GPT, GPTConfig
from minivar.tokenizer import VQVAE, TokenizerConfig, VectorQuantizer


def single(**other) -> TokenizerConfig:
    """16 x 16 grey pixels to one 4 x 4 grid of 4-dimensional codes out of 16."""
    small = {"image_size": 16, "nets": NETS, "codebook_size": 16, "code_dim": 4, "schedule": None}
    return TokenizerConfig(**{**small, "quantizer": "single", "quant_conv_kernel": 1, **other})


def quantizer(l2_norm: bool) -> VectorQuantizer:
    result = VectorQuantizer(16, 4, l2_norm=l2_norm)
    torch.nn.init.normal_(result.codebook, generator=torch.Generator().manual_seed(0))
    return result


@pytest.mark.parametrize("l2_norm", [True, False])
def test_each_cell_gets_the_nearest_code(l2_norm):
    features = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    vq = quantizer(l2_norm)
    for b in range(2):
        for cell in range(9):
            z, codes = features[b, :, cell // 3, cell % 3], vq.codebook
            if l2_norm:
                best = F.cosine_similarity(z[None], codes).argmax()
            else:
                best = (z - codes).square().sum(1).argmin()
            assert vq.encode(features)[0][b, cell] == best


def test_the_length_of_codes_and_features_does_not_matter_on_the_sphere():
    features = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    vq = quantizer(True)
    before, loss = vq.encode(features)[0], vq(features).loss
    with torch.no_grad():
        vq.codebook.mul_(torch.linspace(0.1, 9, 16)[:, None])
    assert torch.equal(vq.encode(5 * features)[0], before)
    torch.testing.assert_close(vq(5 * features).loss, loss)


def test_codes_begin_on_the_sphere_only_where_they_are_compared_there():
    lengths = [VectorQuantizer(64, 8, l2_norm=l2_norm).codebook.detach().norm(dim=1) for l2_norm in (True, False)]
    torch.testing.assert_close(lengths[0], torch.ones(64))
    assert lengths[1].max() <= 8**0.5 / 64


@pytest.mark.parametrize("l2_norm", [True, False])
def test_loss_and_straight_through_gradient(l2_norm):
    features = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    vq = quantizer(l2_norm)
    z = F.normalize(features, dim=1) if l2_norm else features
    out = vq(features)
    codes = vq.codes[out.tokens[0]].transpose(1, 2).view_as(z)
    torch.testing.assert_close(out.quantized, codes)
    torch.testing.assert_close(out.loss, 1.25 * F.mse_loss(codes, z))
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    through = torch.autograd.grad((out.quantized * weight).sum(), features, retain_graph=True)[0]
    torch.testing.assert_close(through, torch.autograd.grad((z * weight).sum(), features)[0])


def test_tokens_become_the_features_they_came_from():
    vq, features = quantizer(True), torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    tokens = vq.encode(features)
    f_hat = next(vq.accumulate(tokens))
    assert torch.equal(vq.encode(f_hat)[0], tokens[0])
    torch.testing.assert_close(f_hat, vq(features).quantized)


def test_a_single_scale_tokenizer_takes_its_size_or_any(images):
    tokenizer = wake(VQVAE(single()))
    assert tokenizer.encode(images)[0].shape == (3, 16)
    assert tokenizer.decode(tokenizer.encode(images)).shape == images.shape
    free = wake(VQVAE(single(image_size=None)))
    larger = torch.zeros(1, 1, 24, 24)
    assert free.decode(free.encode(larger)).shape == larger.shape
    with pytest.raises(ValueError, match="a multiple of 4"):
        free.encode(torch.zeros(1, 1, 18, 18))
    with pytest.raises(ValueError, match=r"side \* side"):
        free.decode([torch.zeros(1, 5, dtype=torch.int64)])


def test_impossible_combinations_are_refused():
    with pytest.raises(ValueError, match="'multi-scale' or 'single'; got 'triple'"):
        single(quantizer="triple")
    with pytest.raises(ValueError, match="a single-scale one has no schedule"):
        single(quantizer="multi-scale")


def test_own_format_round_trips(tmp_path, images):
    tokenizer = wake(VQVAE(single()))
    gpt = GPT(GPTConfig(depth=1, width=16, heads=2, grid=(4, 4), codebook_size=16, num_classes=3))
    for name, model in (("tokenizer", tokenizer), ("gpt", gpt)):
        checkpoints.save(model, tmp_path / f"{name}.safetensors")
    again, _ = checkpoints.load(tmp_path / "tokenizer.safetensors", "VQVAE")
    assert again.config == tokenizer.config
    assert torch.equal(again.encode(images)[0], tokenizer.encode(images)[0])
    assert checkpoints.load(tmp_path / "gpt.safetensors", "GPT")[0].config == gpt.config


def test_a_single_scale_tokenizer_is_no_partner_for_next_scale_prediction(model, tmp_path):
    checkpoints.save(VQVAE(single()), tmp_path / "tokenizer.safetensors")
    checkpoints.save(model, tmp_path / "var.safetensors")
    with pytest.raises(checkpoints.CheckpointError, match="do not belong together"):
        checkpoints.load_pair(tmp_path)
