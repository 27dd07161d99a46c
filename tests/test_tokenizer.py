"""Images to tokens and back: shapes, padding, round trips, and what is refused."""

import pytest
import torch
from conftest import NETS, tokenizer_config, wake

from minivar.analysis.summary import stages
from minivar.scales import VAR_256, ScaleSchedule
from minivar.tokenizer import VQVAE, TokenizerConfig


def test_shapes_along_the_way(tokenizer, images):
    assert tokenizer.features(images).shape == (3, 4, 4, 4)
    tokens = tokenizer.encode(images)
    assert [tuple(t.shape) for t in tokens] == [(3, 1), (3, 4), (3, 16)]
    assert all(t.dtype == torch.int64 and t.min() >= 0 and t.max() < 16 for t in tokens)
    assert tokenizer.decode(tokens).shape == images.shape
    assert tokenizer.teacher_inputs(tokens).shape == (3, 20, 4)
    out = tokenizer(images)
    assert out.reconstruction.shape == images.shape
    assert out.loss.shape == ()
    assert out.scale_errors.shape == (3,)


def test_the_way_there_and_back_is_made_of_its_parts(tokenizer, images):
    tokens = tokenizer.encode(images)
    features = tokenizer.features(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens, tokenizer.quantizer.encode(features)))
    f_hat = list(tokenizer.quantizer.accumulate(tokens))[-1]
    assert torch.equal(tokenizer.decode(tokens), tokenizer.decode_features(f_hat).clamp(-1, 1))
    assert torch.allclose(tokenizer(images).reconstruction, tokenizer.decode_features(f_hat), atol=1e-5)


def test_decoded_images_are_clamped(tokenizer, images):
    with torch.no_grad():
        tokenizer.decoder.conv_out.weight.mul_(50)
    decoded = tokenizer.decode(tokenizer.encode(images))
    assert decoded.min() == -1
    assert decoded.max() == 1
    assert tokenizer(images).reconstruction.abs().max() > 1  # the training forward is not


def test_a_batch_is_its_images_one_by_one(tokenizer, images):
    together = tokenizer.encode(images)
    for i in range(3):
        assert all(torch.equal(a[i : i + 1], b) for a, b in zip(together, tokenizer.encode(images[i : i + 1])))


def test_decoding_a_prefix_shows_the_image_so_far(tokenizer, images):
    tokens = tokenizer.encode(images)
    pyramid = tokenizer.decode_pyramid(tokens)
    assert len(pyramid) == 3
    for k in range(3):
        assert torch.equal(tokenizer.decode(tokens[: k + 1]), pyramid[k])
    assert not torch.equal(pyramid[0], pyramid[2])


def test_digits_of_28_pixels_pass_through_a_grid_of_4():
    config = tokenizer_config(image_size=28, nets=NETS.__class__(**{**NETS.__dict__, "patch": 2}))
    tokenizer = wake(VQVAE(config))
    assert config.nets.stride == 8
    assert tokenizer.padding == (2, 2, 2, 2)  # to 32 x 32
    images = torch.rand(2, 1, 28, 28) * 2 - 1
    assert tokenizer.features(images).shape == (2, 4, 4, 4)
    assert tokenizer.decode(tokenizer.encode(images)).shape == (2, 1, 28, 28)


def testpadding_repeats_the_border_and_is_cropped_at_the_same_place():
    tokenizer = VQVAE(tokenizer_config(image_size=13))  # 13 -> 16: one pixel left and above, two right and below
    seen = []
    tokenizer.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.rand(1, 1, 13, 13)
    tokenizer.features(images)
    (padded,) = seen
    assert padded.shape == (1, 1, 16, 16)
    assert torch.equal(padded[:, :, 1:14, 1:14], images)
    assert torch.equal(padded[:, :, 0, 1:14], images[:, :, 0])
    assert torch.equal(padded[:, :, 15, 1:14], images[:, :, 12])
    tokenizer.decoder.register_forward_hook(lambda module, inputs, output: padded)
    assert torch.equal(tokenizer.decode_features(torch.zeros(1, 4, 4, 4)), images)


def test_rectangular_images_have_rectangular_grids():
    config = tokenizer_config(image_size=(8, 16), schedule=ScaleSchedule(((1, 1), (1, 2), (2, 4))))
    tokenizer = wake(VQVAE(config))
    tokens = tokenizer.encode(torch.rand(2, 1, 8, 16))
    assert [t.shape[1] for t in tokens] == [1, 2, 8]
    assert tokenizer.decode(tokens).shape == (2, 1, 8, 16)


def test_reconstructed_features_give_their_tokens_back_where_scales_do_not_interfere(tokenizer):
    # Tokens -> features -> tokens is exact for f_hat that one scale makes alone (see test_quantizers.py for why it
    # is not in general); the encoder is not the decoder's inverse, so features, not pixels, are what returns.
    quantizer = tokenizer.quantizer
    for phi in quantizer.phis:
        phi.ratio = 0.0
    with torch.no_grad():
        quantizer.codebook[0] = 0
    tokens = [torch.arange(16)[:, None], torch.zeros(16, 4).long(), torch.zeros(16, 16).long()]
    again = quantizer.encode(list(quantizer.accumulate(tokens))[-1])
    assert all(torch.equal(a, b) for a, b in zip(again, tokens))
    assert torch.equal(tokenizer.decode(again), tokenizer.decode(tokens))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 16, 15), (2, 1, 28, 28), (1, 16, 16), (2, 1, 1, 16, 16)])
def test_images_of_another_size_or_channels_are_refused(tokenizer, shape):
    for use in (tokenizer.features, tokenizer.encode, tokenizer):
        with pytest.raises(ValueError) as caught:
            use(torch.zeros(shape))
        assert str(caught.value) == f"The tokenizer expects images of shape (B, 1, 16, 16); got {shape}."


@pytest.mark.parametrize(
    "counts",
    [(), (2,), (1, 5), (1, 4, 15), (1, 4, 16, 25), (4, 1, 16)],
    ids=["none", "first", "second", "last", "too many", "order"],
)
def test_tokens_of_another_shape_are_refused(tokenizer, counts):
    tokens = [torch.zeros(2, count, dtype=torch.int64) for count in counts]
    for use in (tokenizer.decode, tokenizer.decode_pyramid, tokenizer.teacher_inputs):
        with pytest.raises(ValueError, match=r"with \(1, 4, 16\) tokens; got shapes \["):
            use(tokens)


def test_without_other_words_a_tokenizer_is_the_published_one():
    config = TokenizerConfig()
    assert (config.image_size, config.latent_grid, config.schedule) == ((256, 256), (16, 16), VAR_256)
    assert (config.codebook_size, config.code_dim, config.z_channels) == (4096, 32, None)
    assert (config.beta, config.num_phi, config.phi_ratio, config.quant_conv_kernel) == (0.25, 4, 0.5, 3)
    nets = config.nets
    assert (nets.base_channels, nets.multipliers, nets.res_blocks) == (160, (1, 1, 2, 2, 4), 2)
    assert (nets.groups, nets.patch, nets.stride, nets.image_channels) == (32, 1, 16, 3)


def test_channels_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="GroupNorm with 32 groups needs channels divisible by it; got 40 x 1"):
        NETS.__class__(base_channels=40)


def test_the_stages_of_a_tokenizer_have_its_parameters_and_leave_no_hook_behind():
    with torch.device("meta"):
        tokenizer = VQVAE(TokenizerConfig())
        parts = stages(tokenizer)
    assert parts == stages(tokenizer)
    assert [name for name, _, _ in parts[:2]] == ["enc conv_in", "enc level 0"]
    assert parts[-1] == ("image", (3, 256, 256), 0)
    assert ("f_hat", (32, 16, 16), 4096 * 32 + 36_992) in parts
    norms = 2 * (640 + 160)  # those before the two output convolutions are no parts
    assert sum(count for _, _, count in parts) + norms == sum(p.numel() for p in tokenizer.parameters())
    assert not any(module._forward_hooks for module in tokenizer.modules())
