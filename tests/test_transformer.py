"""The next-scale transformer: what may leak, what teacher forcing equals, how it starts, how large it is."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULE, var_config, wake

from minivar import presets
from minivar.models import VAR, VARConfig
from minivar.models.layers import drop_labels, drop_path
from minivar.sampling import KVCache
from minivar.tokenizer import VQVAE, TokenizerConfig

VARIANTS = {
    "AdaLN": {},
    "shared AdaLN": {"shared_adaln": True},
    "plain attention": {"l2_norm_attention": False},
    "class as a prefix": {"conditioning": "prefix"},
}


@pytest.fixture(params=VARIANTS)
def variant(request) -> VAR:
    return wake(VAR(var_config(**VARIANTS[request.param])))


@pytest.fixture
def tokens(tokenizer, images):
    return tokenizer.encode(images)


LABELS = torch.tensor([0, 3, 5])  # 5 is the null class


def test_as_a_prefix_the_class_leaves_plain_blocks_behind():
    torch.manual_seed(0)
    model = VAR(var_config(conditioning="prefix"))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    block, width = model.blocks[0], model.config.width
    scale1, scale2, shift1, shift2 = block.ada.scales_and_shifts.view(4, width)
    x = torch.randn(2, 5, width)
    expected = x + block.attn(F.layer_norm(x, (width,), 1 + scale1, shift1, eps=1e-6), None)
    expected = expected + block.mlp(F.layer_norm(expected, (width,), 1 + scale2, shift2, eps=1e-6))
    cond = torch.randn(2, width)
    torch.testing.assert_close(block(x, cond, None), expected)
    scale, shift = model.head_ada.scales_and_shifts.view(2, width)
    torch.testing.assert_close(
        model.logits(x, cond), model.head(F.layer_norm(x, (width,), 1 + scale, shift, eps=1e-6))
    )
    assert not any(f"{module}.weight" in model.state_dict() for module in ("head_ada", "blocks.0.ada"))


def test_a_prefix_has_no_adaln_to_share():
    with pytest.raises(ValueError, match="got shared_adaln with conditioning prefix, expected adaln"):
        VARConfig(shared_adaln=True, conditioning="prefix")


# What a scale may see ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(SCHEDULE.num_scales))
def test_a_changed_token_changes_no_logit_of_its_own_scale_or_a_coarser_one(variant, tokenizer, tokens, k):
    before = SCHEDULE.split(variant(LABELS, tokenizer.teacher_inputs(tokens)))
    for position in range(SCHEDULE.counts[k]):
        changed = [t.clone() for t in tokens]
        changed[k][:, position] = (changed[k][:, position] + 1) % 16
        after = SCHEDULE.split(variant(LABELS, tokenizer.teacher_inputs(changed)))
        assert all(torch.equal(a, b) for a, b in zip(before[: k + 1], after[: k + 1]))
        for a, b in zip(before[k + 1 :], after[k + 1 :]):
            assert (a - b).abs().amax(dim=(1, 2)).min() > 1e-4  # every image's logits moved


def test_logits_depend_on_the_label_at_every_scale(variant, tokenizer, tokens):
    inputs = tokenizer.teacher_inputs(tokens)
    one, other = variant(LABELS, inputs), variant((LABELS + 1) % 6, inputs)
    assert (one - other).abs().amax(dim=(0, 2)).min() > 1e-4


def test_recorded_attention_is_zero_where_the_mask_forbids(variant, tokenizer, tokens):
    record: list = []
    logits = variant(LABELS, tokenizer.teacher_inputs(tokens), record)
    assert [tuple(weights.shape) for weights in record] == [(3, 2, 21, 21)] * 2
    for weights in record:
        assert torch.allclose(weights.sum(-1), torch.ones(3, 2, 21), atol=1e-5)
        assert weights[..., ~SCHEDULE.block_causal_mask()].abs().max() == 0
    assert torch.equal(logits, variant(LABELS, tokenizer.teacher_inputs(tokens)))


# Teacher forcing --------------------------------------------------------------------------------------------------


def test_teacher_forced_logits_equal_stepwise_logits(variant, tokenizer, tokens):
    forced = SCHEDULE.split(variant(LABELS, tokenizer.teacher_inputs(tokens)))
    quantizer = tokenizer.quantizer
    cond, cond_blocks = variant.condition(LABELS)
    caches = [KVCache(variant.schedule.num_tokens) for _ in variant.blocks]
    f_hat = torch.zeros(3, 4, 4, 4)
    for k in range(SCHEDULE.num_scales):
        hidden = variant.embed(k, cond, quantizer.at_scale(f_hat, k) if k else None)
        for block, cache in zip(variant.blocks, caches):
            hidden = block(hidden, cond_blocks, None, cache)
        assert torch.allclose(variant.logits(hidden, cond), forced[k], atol=1e-5)
        f_hat = f_hat + quantizer.contribution(quantizer.lookup(tokens[k]), k)


@pytest.mark.parametrize("shape", [(3, 21, 4), (3, 19, 4), (2, 20, 4), (3, 20, 5), (3, 20)])
def test_inputs_of_another_shape_are_refused(model, shape):
    with pytest.raises(ValueError) as caught:
        model(LABELS, torch.zeros(shape))
    assert str(caught.value) == f"Expected teacher inputs of shape (3, 20, 4); got {shape}."


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="got width 32, heads 3"):
        var_config(heads=3)


# Regularisation ---------------------------------------------------------------------------------------------------


def test_labels_are_dropped_in_training_at_the_stated_rate():
    model = VAR(var_config(label_dropout=0.1)).train()
    torch.manual_seed(0)
    labels = drop_labels(torch.full((20000,), 2), model.config, model.training)
    assert set(labels.tolist()) == {2, 5}
    assert (labels == 5).float().mean().item() == pytest.approx(0.1, abs=0.01)


def test_labels_are_not_dropped_in_evaluation(tokenizer, tokens):
    model = wake(VAR(var_config(label_dropout=1.0, drop_path=0.0)))
    inputs = tokenizer.teacher_inputs(tokens)
    assert torch.equal(drop_labels(LABELS, model.config, model.training), LABELS)
    null = model(torch.full_like(LABELS, 5), inputs)
    assert not torch.allclose(model(LABELS, inputs)[:2], null[:2], atol=1e-4)
    assert torch.equal(model.train()(LABELS, inputs), null)  # all dropped: the null class everywhere


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(20000, 2, 3)
    dropped = drop_path(x, 0.25, training=True)
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(dropped.amax((1, 2)), dropped.amin((1, 2)))
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert drop_path(x, 0.25, training=False) is x


def test_the_published_rule_ties_width_and_drop_path_to_depth():
    for depth in (16, 20, 24, 30):
        config = VARConfig.from_depth(depth)
        assert (config.depth, config.width, config.heads) == (depth, 64 * depth, depth)
        assert config.drop_path == pytest.approx(0.1 * depth / 24)
    assert VARConfig() == VARConfig.from_depth(16)
    config = VARConfig()
    assert (config.mlp_ratio, config.num_classes, config.codebook_size, config.code_dim) == (4, 1000, 4096, 32)
    assert (config.label_dropout, config.gamma_init) == (0.1, 1e-3)


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_each_residual_branch_is_dropped_for_whole_samples(branch):
    block = wake(VAR(var_config(drop_path=0.5))).blocks[1]
    assert block.drop_path_rate == 0.5
    silenced = block.mlp.fc2 if branch == "attention" else block.attn.proj  # so that the other is all that is added
    generator = torch.Generator().manual_seed(0)
    x, cond = torch.randn(1000, 3, 32, generator=generator), torch.randn(1000, 32, generator=generator)
    torch.manual_seed(0)
    with torch.no_grad():
        silenced.weight.zero_()
        silenced.bias.zero_()
        whole, dropped = (block.train(mode)(x, cond, None) - x for mode in (False, True))
    kept = dropped.flatten(1).abs().amax(1) > 0
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.06)
    torch.testing.assert_close(dropped[kept], 2 * whole[kept], atol=1e-4, rtol=1e-4)


def test_drop_path_grows_linearly_with_depth():
    model = VAR(var_config(depth=4, drop_path=0.3))
    assert [block.drop_path_rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


# Initialisation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_initial_weights_have_the_published_scales(shared):
    torch.manual_seed(0)
    width, depth = 192, 3
    model = VAR(VARConfig.from_depth(3, num_classes=10, shared_adaln=shared, gamma_init=1e-3))
    std = math.sqrt(1 / (3 * width))

    def close(tensor, expected):
        assert tensor.std().item() == pytest.approx(expected, rel=0.06)

    close(model.word_embed.weight, std)
    close(model.class_embed.weight, std)
    close(model.position_1LD, std)
    close(model.level_embed.weight, std)
    close(model.head.weight, 0.02 * std)
    close(model.head_ada.weight, 0.5 * std)
    for block in model.blocks:
        close(block.attn.qkv.weight, std)
        close(block.mlp.fc1.weight, std)
        close(block.attn.proj.weight, std / math.sqrt(2 * depth))
        close(block.mlp.fc2.weight, std / math.sqrt(2 * depth))
        # gamma1, gamma2, scale1, scale2, shift1, shift2
        six = block.ada_table_116D[0, 0] if shared else block.ada.weight.view(6, -1)
        base = 1 / math.sqrt(width) if shared else std
        assert six[:2].std().item() == pytest.approx(1e-3 * base, rel=0.2)
        assert six[2:].std().item() == pytest.approx(0.5 * base, rel=0.2)
        assert block.attn.log_scale_1H11.flatten().tolist() == pytest.approx([math.log(4)] * 3)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert len(biases) > 10
    assert all(bias.abs().max() == 0 for bias in biases)


def test_an_untrained_model_predicts_all_codes_alike(tokenizer, tokens):
    torch.manual_seed(0)
    logits = VAR(var_config()).eval()(LABELS, tokenizer.teacher_inputs(tokens))
    assert (logits.softmax(-1) - 1 / 16).abs().max() < 0.01


# Size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("var-d16", 310.28),
        ("var-d20", 600.92),
        ("var-d24", 1033.40),
        ("var-d30", 2010.02),
        ("var-d36-s", 2353.89),
    ],
)
def test_published_transformers_have_the_published_number_of_parameters(name, millions):
    with torch.device("meta"):
        model = VAR(presets.get(name).model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_published_tokenizer_has_the_published_number_of_parameters():
    with torch.device("meta"):
        tokenizer = VQVAE(TokenizerConfig())
    assert round(sum(p.numel() for p in tokenizer.parameters()) / 1e6, 2) == 108.95
    assert sum(p.numel() for p in tokenizer.quantizer.phis.parameters()) == 36_992


def test_the_null_class_has_an_embedding_of_its_own(model):
    assert model.class_embed.num_embeddings == model.config.num_classes + 1
