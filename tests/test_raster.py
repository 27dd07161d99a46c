"""The next-token transformer and its sampling."""

import math

import pytest
import torch
import torch.nn.functional as F

from minivar import presets
from minivar.models import GPT, VAR, GPTConfig, VARConfig
from minivar.models.gpt import GPTBlock, rotary_table, rotate
from minivar.sampling import filter_descending, sample_raster

SMALL = {"depth": 2, "width": 32, "heads": 2, "grid": (3, 3), "codebook_size": 16, "num_classes": 5}
STYLES = {
    "llama": SMALL,
    "gpt2": {**SMALL, "style": "gpt2"},
    "var": {**SMALL, "style": "var", "dropout": 0.0},
    "var, AdaLN": {**SMALL, "style": "var", "dropout": 0.0, "conditioning": "adaln"},
    "caption": {**SMALL, "caption_tokens": 4, "caption_dim": 6},
}


@pytest.fixture(params=STYLES)
def gpt(request) -> GPT:
    """A small model whose parameters are all of a size that matters."""
    model = GPT(GPTConfig(**STYLES[request.param]))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def condition(gpt: GPT, batch: int) -> torch.Tensor:
    if gpt.config.caption_tokens:
        return torch.randn(batch, 4, 6, generator=torch.Generator().manual_seed(1))
    return torch.arange(batch) % 5


def tokens_of(batch: int, count: int) -> torch.Tensor:
    return torch.randint(16, (batch, count), generator=torch.Generator().manual_seed(2))


def test_a_token_changes_later_logits_only(gpt):
    cond, tokens = condition(gpt, 2), tokens_of(2, 8)
    before = gpt(cond, tokens)
    for i in range(8):
        changed = tokens.clone()
        changed[:, i] = (changed[:, i] + 1) % 16
        moved = (gpt(cond, changed) - before).abs().amax((0, 2)) > 1e-6
        assert not moved[: i + 1].any()
        assert moved[i + 1]


def test_teacher_forced_logits_equal_those_of_every_prefix(gpt):
    cond, tokens = condition(gpt, 2), tokens_of(2, 8)
    logits = gpt(cond, tokens)
    for n in range(9):
        torch.testing.assert_close(gpt(cond, tokens[:, :n]), logits[:, : n + 1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_cached_sampling_equals_uncached(gpt, cfg):
    cond = condition(gpt, 3)
    drawn = [
        sample_raster(gpt, None, cond, cfg=cfg, generator=torch.Generator().manual_seed(3), use_cache=cached)
        for cached in (True, False)
    ]
    assert torch.equal(drawn[0].tokens, drawn[1].tokens)
    assert drawn[0].tokens.shape == (3, 9)
    assert drawn[0].images is None


def test_greedy_takes_the_likeliest_token_of_the_teacher_forced_pass(gpt):
    cond = condition(gpt, 2)
    tokens = sample_raster(gpt, None, cond, greedy=True).tokens
    assert torch.equal(gpt(cond, tokens[:, :-1]).argmax(-1), tokens)


def test_rotation_depends_on_the_distance_between_cells_alone():
    config = GPTConfig(**{**SMALL, "grid": (4, 4)})
    table = rotary_table(config, (4, 4))[config.prefix :].view(4, 4, -1, 2)
    q, k = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(4))

    def score(a: tuple[int, int], b: tuple[int, int]) -> torch.Tensor:
        return (rotate(q, table[a][None]) * rotate(k, table[b][None])).sum()

    torch.testing.assert_close(score((0, 0), (1, 2)), score((2, 1), (3, 3)))
    assert (score((0, 0), (1, 2)) - score((0, 0), (2, 1))).abs() > 1e-3


def test_condition_tokens_have_a_rotary_table_of_zeros():
    config = GPTConfig(**STYLES["caption"])
    assert not rotary_table(config, (3, 3))[:4].any()
    assert rotary_table(config, (3, 3)).shape == (4 + 9, 8, 2)


def test_conditions_are_dropped_in_training_only(gpt):
    cond = condition(gpt, 400)
    null = gpt.prefix(gpt.null_condition(cond))
    assert gpt.drop_conditions(cond) is cond
    assert not (gpt.prefix(cond) == null).flatten(1).all(1).any()
    torch.manual_seed(0)
    dropped = (gpt.prefix(gpt.train().drop_conditions(cond)) == null).flatten(1).all(1).float().mean()
    assert 0.05 < dropped < 0.16


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_guidance_goes_from_the_unconditional_past_the_conditional(gpt, strength):
    cond = condition(gpt, 3)
    tokens = sample_raster(gpt, None, cond, cfg=strength, greedy=True).tokens
    with_cond, without = (gpt(c, tokens[:, :-1]) for c in (cond, gpt.null_condition(cond)))
    assert torch.equal((without + strength * (with_cond - without)).argmax(-1), tokens)
    if strength > 1:
        assert not torch.equal(with_cond.argmax(-1), tokens)  # it makes a difference here


def test_temperature_and_filters_act_on_the_logits_that_are_drawn_from(gpt):
    cond = condition(gpt, 4)
    with torch.no_grad():
        gpt.head.weight.mul_(3)
    options = {"top_k": 5, "top_p": 0.8, "cfg": 2.0}
    drawn = sample_raster(gpt, None, cond, temperature=1.5, generator=torch.Generator().manual_seed(5), **options)
    generator, expected = torch.Generator().manual_seed(5), torch.zeros(4, 0, dtype=torch.int64)
    for _ in range(9):
        with_cond, without = (gpt(c, expected)[:, -1] for c in (cond, gpt.null_condition(cond)))
        logits = filter_descending((2 * with_cond - without) / 1.5, 5, 0.8)
        new = torch.multinomial(logits.softmax(-1), 1, replacement=True, generator=generator)
        expected = torch.cat([expected, new], dim=1)
    assert torch.equal(drawn.tokens, expected)


@pytest.mark.parametrize("style", ["llama", "gpt2", "caption"])
def test_initial_weights_have_the_published_scales(style):
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**STYLES[style], "width": 128, "codebook_size": 64, "caption_dim": 500}))
    for name, parameter in model.named_parameters():
        if name == "head.weight" or name.endswith("bias"):
            assert not parameter.any(), name
        elif name == "null_caption":
            assert parameter.std().item() == pytest.approx(1 / math.sqrt(500), rel=0.1)
        elif parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            assert (parameter == 1).all(), name  # of norms


@pytest.mark.parametrize("conditioning", ["prefix", "adaln"])
def test_style_var_has_the_blocks_and_the_beginnings_of_var(conditioning):
    shape = {"depth": 2, "width": 64, "heads": 2, "codebook_size": 32, "num_classes": 5, "gamma_init": 0.1}
    torch.manual_seed(0)
    raster = GPT(GPTConfig(style="var", conditioning=conditioning, dropout=0.0, grid=(3, 3), **shape))
    ours = dict(raster.named_parameters())
    theirs = dict(VAR(VARConfig(conditioning=conditioning, **shape)).named_parameters())
    alike = [name for name in ours if name in theirs]
    assert set(ours) - set(alike) == {"token_embed.weight"}
    for name in alike:
        assert ours[name].shape == theirs[name].shape or name == "position_1LD", name
        torch.testing.assert_close(ours[name].std(), theirs[name].std(), rtol=0.15, atol=1e-8)
    close = pytest.approx(1 / math.sqrt(3 * 64), rel=0.15)
    assert (ours["position_1LD"].std().item(), ours["token_embed.weight"].std().item()) == (close, close)


def test_with_adaln_the_class_reaches_every_block_and_as_a_prefix_the_first_position_alone():
    cond, tokens = torch.tensor([0, 1]), tokens_of(2, 8)[:1].expand(2, -1)
    for conditioning in ("prefix", "adaln"):
        torch.manual_seed(0)
        config = GPTConfig(**STYLES["var"] | {"conditioning": conditioning})
        model = GPT(config).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape) * 0.3
        model.class_embed.weight.data[0, :] = 0  # in both images the prefix is silenced ...
        prefix = model.prefix(cond)[:1].expand(2, -1, -1)
        x, context = torch.cat([prefix, model.token_embed(tokens)], 1), model.context(cond, (3, 3))
        first, second = model.logits(model.hidden(x, 0, (3, 3), None, context), context)
        assert torch.equal(first, second) == (conditioning == "prefix")  # ... and the class is not, with AdaLN


@pytest.mark.parametrize("conditioning", ["prefix", "adaln"])
def test_style_var_is_what_its_parts_say(conditioning):
    """A forward pass a second time: VAR's blocks under a causal mask, positions, and a head that knows the class."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**STYLES["var"] | {"conditioning": conditioning})).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    labels, tokens = torch.tensor([0, 3]), tokens_of(2, 8)
    cond_BD = model.class_embed.weight[labels]
    x_BND = torch.cat([cond_BD[:, None], model.token_embed.weight[tokens]], 1) + model.position_1LD[0, :9]
    for block in model.blocks:
        gamma1, gamma2, scale1, scale2, shift1, shift2 = block.ada(F.silu(cond_BD)).view(-1, 6, 32).unbind(1)
        normed = F.layer_norm(x_BND, (32,), eps=1e-6) * (1 + scale1[:, None]) + shift1[:, None]
        x_BND = x_BND + gamma1[:, None] * block.attn(normed, torch.ones(9, 9).tril().bool())
        normed = F.layer_norm(x_BND, (32,), eps=1e-6) * (1 + scale2[:, None]) + shift2[:, None]
        x_BND = x_BND + gamma2[:, None] * block.mlp(normed)
    scale, shift = model.head_ada(F.silu(cond_BD)).view(-1, 2, 32).unbind(1)
    expected = model.head(F.layer_norm(x_BND, (32,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None])
    torch.testing.assert_close(model(labels, tokens), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        ({"conditioning": "adaln"}, "expected style var for it; got llama"),
        ({"style": "var"}, "expected caption_tokens 0 and dropout 0; got 0 and 0.1"),
        ({"style": "var", "dropout": 0.0, "grid": None}, "needs a grid; got None"),
    ],
)
def test_styles_that_do_not_go_together_are_refused(wrong, got):
    with pytest.raises(ValueError, match=got):
        GPTConfig(**wrong)


def test_without_other_words_a_transformer_is_llamagen_b():
    config = GPTConfig()
    assert (config.depth, config.width, config.heads, config.grid) == (12, 768, 12, (16, 16))
    assert (config.codebook_size, config.num_classes, config.caption_dim) == (16384, 1000, 2048)
    assert (config.dropout, config.label_dropout, config.norm_eps, config.rope_base) == (0.1, 0.1, 1e-5, 10000)
    assert (config.prefix, GPTConfig(caption_tokens=120).prefix) == (1, 120)
    assert [GPTConfig(width=width, heads=4).mlp_width for width in (768, 1024, 1280)] == [2048, 2816, 3584]
    assert GPTConfig(style="gpt2").mlp_width == 3072 and GPTConfig(hidden=100).mlp_width == 100


def assert_dropped(got: torch.Tensor, whole: torch.Tensor, rate: float) -> None:
    """``got`` is ``whole`` with a share ``rate`` of its entries set to 0 and the others divided by 1 - ``rate``."""
    zero = got.abs() <= 1e-6
    assert zero.float().mean().item() == pytest.approx(rate, abs=0.05)  # of 2048 entries or more
    torch.testing.assert_close(got[~zero], whole[~zero] / (1 - rate), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_tokens_are_dropped_in_training_only(style):
    model = GPT(GPTConfig(**{**STYLES[style], "width": 128, "dropout": 0.25, "label_dropout": 0.0}))
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].detach()))
    cond, tokens = torch.arange(4) % 5, tokens_of(4, 8)
    torch.manual_seed(0)
    for mode in (False, True):
        model.train(mode)(cond, tokens)
    whole, dropped = seen
    assert (whole.abs() > 1e-6).float().mean() > 0.999
    assert_dropped(dropped, whole, 0.25)


@pytest.mark.parametrize("style", ["llama", "gpt2"])
@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_each_residual_branch_is_dropped_in_training_only(style, branch):
    config = GPTConfig(**{**STYLES[style], "width": 64, "dropout": 0.4})
    torch.manual_seed(0)
    block = GPTBlock(config)
    silenced = block.mlp if branch == "attention" else block.proj  # so that the other branch is all that is added
    for parameter in silenced.parameters():
        torch.nn.init.zeros_(parameter)
    table = rotary_table(config, (3, 3))[:9] if style == "llama" else None
    x = torch.randn(8, 9, 64)
    whole, dropped = (block.train(mode)(x, table) - x for mode in (False, True))
    # a difference of rounding errors where nothing was added: entries of x are below 5, their last digit about 5e-7
    assert_dropped(dropped, whole, 0.4)


def test_nucleus_keeps_the_code_that_crosses_the_mass():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = [filter_descending(logits, top_p=p).isfinite().sum().item() for p in (0.4, 0.6, 0.9, 1.0)]
    assert kept == [1, 2, 3, 4]


def test_published_parameter_counts():
    millions = {"b": 110.9, "l": 342.9, "xl": 774.7, "xxl": 1411, "3b": 3097}
    for size, expected in millions.items():
        with torch.device("meta"):
            model = GPT(presets.get(f"llamagen-{size}-256").model)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"cfg": 0.5}, "cfg >= 1"), ({"temperature": 0.0}, "temperature > 0"), ({"top_p": 0.0}, r"top_p in \(0, 1\]")],
)
def test_impossible_sampling_is_refused(gpt, options, said):
    with pytest.raises(ValueError, match=said):
        sample_raster(gpt, None, condition(gpt, 1), **options)


def test_wrong_shapes_are_refused(gpt):
    with pytest.raises(ValueError, match="Expected a condition of shape"):
        gpt(torch.zeros(2, 7), tokens_of(2, 8))
    with pytest.raises(ValueError, match="Expected fewer than 9 tokens"):
        gpt(condition(gpt, 2), tokens_of(2, 9))
    free = GPT(GPTConfig(**{**SMALL, "grid": None}))
    assert free(torch.zeros(1, dtype=torch.int64), tokens_of(1, 24)).shape == (1, 25, 16)
    with pytest.raises(ValueError, match="one fewer than a square of tokens to predict from; got 9"):
        free(torch.zeros(1, dtype=torch.int64), tokens_of(1, 9))
    with pytest.raises(ValueError, match="needs a grid"):
        GPTConfig(style="gpt2", grid=None)
    with pytest.raises(ValueError, match="'llama', 'gpt2' or 'var'"):
        GPTConfig(style="bert")
