"""Drawing with less arithmetic: with nothing left out it is drawing as ever, and what is left out is left out."""

import dataclasses

import pytest
import torch
from conftest import SCHEDULE, var_config, wake

from minivar import training
from minivar.data import ArraySet
from minivar.models import VAR
from minivar.sampling import Economy, KVCache, eight_bits, sample, sample_economically
from minivar.sampling.eight_bits import Int8Linear, rounded
from minivar.scales import ScaleSchedule

LABELS = torch.tensor([0, 3, 4, 5])
SETTINGS = {"cfg": 1.5, "top_k": 9, "top_p": 0.9}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


NOTHING = Economy()


def draw(model, tokenizer, economy=NOTHING, refiner=None, **settings):
    settings = {**SETTINGS, **settings}
    return sample_economically(model, tokenizer, LABELS, economy, refiner, generator=seeded(), **settings)


@pytest.fixture
def small() -> VAR:
    return wake(VAR(var_config(depth=1, width=16, shared_adaln=True)), seed=3)


class Watched:
    """How many images and positions passed the blocks, and how many the head, scale by scale."""

    def __init__(self, model: VAR) -> None:
        self.blocks, self.head = [], []
        model.blocks[0].register_forward_pre_hook(lambda module, args: self.blocks.append(tuple(args[0].shape[:2])))
        model.head.register_forward_pre_hook(lambda module, args: self.head.append(tuple(args[0].shape[:2])))


@pytest.mark.parametrize("cfg", [0.0, 1.5])
@pytest.mark.parametrize("shared", [False, True], ids=["", "shared AdaLN"])
def test_with_nothing_left_out_it_draws_as_ever(tokenizer, cfg, shared):
    model = wake(VAR(var_config(shared_adaln=shared)))
    ours, plain = (
        draw(model, tokenizer, cfg=cfg),
        sample(model, tokenizer, LABELS, generator=seeded(), **{**SETTINGS, "cfg": cfg}),
    )
    assert torch.equal(ours.tokens, plain.tokens)
    torch.testing.assert_close(ours.images, plain.images)


def test_everything_kept_and_handed_to_itself_changes_nothing(model, tokenizer):
    plain = draw(model, tokenizer)
    all_of_it = Economy(guided_scales=3, scales=3, kept_tokens=1.0, sub_steps=1)
    assert torch.equal(draw(model, tokenizer, all_of_it).tokens, plain.tokens)
    for scales in (1, 2):
        handed = draw(model, tokenizer, Economy(refined_from=scales), refiner=model)
        assert torch.equal(handed.tokens, plain.tokens)


@pytest.mark.parametrize("guided", [0, 1, 2])
def test_scales_without_guidance_cost_half_and_the_first_ones_stay_the_same(model, tokenizer, guided):
    plain, seen = draw(model, tokenizer), Watched(model)
    fewer = draw(model, tokenizer, Economy(guided_scales=guided))
    assert seen.blocks == [(8 if k < guided else 4, count) for k, count in enumerate(SCHEDULE.counts)]
    same = SCHEDULE.bounds[guided][0] if guided else 1  # guidance is 0 at the first scale in either case
    assert torch.equal(fewer.tokens[:, :same], plain.tokens[:, :same])
    assert not torch.equal(fewer.tokens, plain.tokens)
    if not guided:
        assert torch.equal(fewer.tokens, draw(model, tokenizer, cfg=0.0).tokens)


def test_the_last_scale_without_guidance_is_drawn_from_the_conditional_logits(model, tokenizer):
    """What it sees of the scales before is what the conditional half saw."""
    fewer = draw(model, tokenizer, Economy(guided_scales=2), top_k=1, top_p=0.0)
    tokens = SCHEDULE.split(fewer.tokens)
    logits = model(LABELS, tokenizer.teacher_inputs(tokens))
    assert torch.equal(logits[:, -16:].argmax(-1), tokens[-1])


def test_a_pyramid_may_end_early(model, tokenizer):
    plain, shorter = draw(model, tokenizer), draw(model, tokenizer, Economy(scales=2))
    assert torch.equal(shorter.tokens, plain.tokens[:, :5])
    expected = tokenizer.decode(SCHEDULE.split(plain.tokens)[:2])
    torch.testing.assert_close(shorter.images, (expected + 1) / 2)


def test_only_the_kept_tokens_of_the_last_scale_are_computed(model, tokenizer):
    seen = Watched(model)
    drawn = draw(model, tokenizer, Economy(kept_tokens=0.25))
    assert seen.blocks == [(8, 1), (8, 4), (8, 4)]
    assert seen.head == [(4, 1), (8, 4), (8, 4)]
    tokens = SCHEDULE.split(drawn.tokens)
    smallest = tokenizer.quantizer.codebook.norm(dim=1).argmin()
    assert ((tokens[-1] == smallest).sum(1) >= 12).all()
    torch.testing.assert_close(drawn.images, (tokenizer.decode(tokens) + 1) / 2)


def test_the_kept_ones_are_where_the_scale_before_added_most_and_are_predicted_there(model, tokenizer):
    drawn = draw(model, tokenizer, Economy(kept_tokens=0.5), cfg=0.0, top_k=1, top_p=0.0)
    tokens, quantizer = SCHEDULE.split(drawn.tokens), tokenizer.quantizer
    added = quantizer.contribution(quantizer.lookup(tokens[1]), 1).flatten(2).norm(dim=1)
    most = added.sort(1, descending=True)
    clear = most.values[:, 7] > 1.001 * most.values[:, 8]  # of a flat addition no position is the eighth
    assert clear.any()
    kept = most.indices[:, :8]
    inputs = quantizer.teacher_inputs(tokens)
    cond, blocks = model.condition(LABELS)
    before = torch.cat([model.embed(0, cond), model.embed(1, cond, inputs[:, :4])], dim=1)
    for image in clear.nonzero().flatten().tolist():
        where = kept[image]
        last = model.embed(2, cond, inputs[:, 4:])[:, where]
        x = torch.cat([before, last], dim=1)
        mask = SCHEDULE.block_causal_mask("cpu")[: x.shape[1], : x.shape[1]]
        for block in model.blocks:
            x = block(x, blocks, mask)
        expected = model.logits(x, cond)[image, -8:].argmax(-1)
        assert torch.equal(tokens[-1][image, where], expected)


def test_a_small_model_goes_on_where_the_large_one_stopped(model, small, tokenizer):
    plain, seen, seen_small = draw(model, tokenizer, cfg=0.0), Watched(model), Watched(small)
    drawn = draw(model, tokenizer, Economy(refined_from=2), refiner=small, cfg=0.0, top_k=1, top_p=0.0)
    assert seen.blocks == [(4, 1), (4, 4)]
    assert seen_small.blocks == [(4, 5), (4, 16)]
    tokens = SCHEDULE.split(drawn.tokens)
    logits = small(LABELS, tokenizer.teacher_inputs(tokens))
    assert torch.equal(logits[:, -16:].argmax(-1), tokens[-1])
    assert not torch.equal(drawn.tokens, plain.tokens)


def test_guidance_and_a_small_model_may_end_and_begin_at_the_same_scale(model, small, tokenizer):
    seen = Watched(small)
    draw(model, tokenizer, Economy(refined_from=2, guided_scales=2), refiner=small)
    assert seen.blocks == [(4, 5), (4, 16)]


def test_parts_of_the_last_scale_know_the_parts_before_them(model, tokenizer):
    """With the best code taken, what was drawn last is what the model says of the rest."""
    seen = Watched(model)
    economy, greedy = Economy(sub_steps=3), {"cfg": 0.0, "top_k": 1, "top_p": 0.0}
    drawn = draw(model, tokenizer, economy, **greedy)
    assert seen.blocks == [(4, 1), (4, 4), *3 * [(4, 16)]]
    tokens, quantizer = SCHEDULE.split(drawn.tokens), tokenizer.quantizer
    # The order is the first thing that is drawn at random at the last scale, after the tokens of the others.
    generator = seeded()
    for count in (1, 4):
        torch.multinomial(torch.ones(4 * count, 16), 1, replacement=True, generator=generator)
    place = torch.rand(4, 16, generator=generator).argsort(1).argsort(1)
    inputs = tokenizer.teacher_inputs(tokens)
    known = place < 8  # 1 - cos(pi / 3) = 1/2
    inputs[:, -16:] += quantizer.last_scale_so_far(tokens[-1], known)
    expected = model(LABELS, inputs)[:, -16:].argmax(-1)
    assert torch.equal(tokens[-1][~known], expected[~known])


def test_known_tokens_add_what_their_codes_alone_would(tokenizer):
    quantizer, tokens = tokenizer.quantizer, torch.randint(16, (2, 16), generator=seeded())
    everything = quantizer.last_scale_so_far(tokens, torch.ones(2, 16, dtype=torch.bool))
    expected = quantizer.contribution(quantizer.lookup(tokens), 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(everything, expected)
    codes = quantizer.lookup(tokens).clone()
    codes[:, 5:] = 0
    known = (torch.arange(16) < 5).expand(2, -1)
    expected = quantizer.contribution(codes, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(quantizer.last_scale_so_far(tokens, known), expected)


# Training with revealed codes --------------------------------------------------------------------------------------


def task_of(revealed: float, tokenizer) -> training.VARTask:
    images = ArraySet(torch.randint(0, 255, (64, 1, 16, 16), generator=seeded()).byte().numpy(), [0] * 64, ["a"] * 5)
    return training.VARTask(wake(VAR(var_config(revealed=revealed))), tokenizer, images)


def test_revealed_codes_are_in_the_inputs_and_count_for_nothing(tokenizer, monkeypatch):
    task = task_of(1.0, tokenizer)
    tokens = task.encoded.encoded_N
    inputs = tokenizer.teacher_inputs(SCHEDULE.split(tokens))
    torch.manual_seed(0)
    revealed, weights = task.reveal(inputs, tokens)
    assert weights.shape == tokens.shape
    torch.testing.assert_close(weights[:, :5], torch.ones(64, 5))
    assert weights[:, 5:].mean().item() == pytest.approx(1)
    known = weights[:, 5:] == 0
    assert 0.4 < known.float().mean() < 0.6
    assert known.float().mean(1).std() > 0.2  # any share of an image is as likely as any other
    torch.testing.assert_close(revealed[:, :4], inputs[:, :4])
    expected = inputs[:, 4:] + tokenizer.quantizer.last_scale_so_far(tokens[:, 5:], known)
    torch.testing.assert_close(revealed[:, 4:], expected)


def test_a_share_of_the_images_is_revealed_and_only_in_training(tokenizer):
    task = task_of(0.25, tokenizer)
    tokens = task.encoded.encoded_N
    inputs = tokenizer.teacher_inputs(SCHEDULE.split(tokens))
    torch.manual_seed(0)
    shown = [(task.reveal(inputs, tokens)[1] == 0).any(1).float().mean() for _ in range(20)]
    assert 0.15 < torch.stack(shown).mean() < 0.3  # of a quarter, the few are missing of which no position fell in
    labels = torch.zeros(64, dtype=torch.int64)
    plain = task_of(0.0, tokenizer)
    for each in (task, plain):
        each.model.eval()
    losses = [each.predict(each.model, tokens, labels)[0] for each in (task, plain)]
    torch.testing.assert_close(*losses)
    task.model.train()
    assert not torch.equal(task.predict(task.model, tokens, labels)[0] == 0, losses[0] == 0)


# Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("economy", "message"),
    [
        ({"kept_tokens": 0.0}, "kept_tokens must be a number in"),
        ({"sub_steps": 0}, "sub_steps must be"),
        ({"scales": 0}, "scales must be"),
        ({"sub_steps": 2, "kept_tokens": 0.5}, "either drawn in parts or in part; got sub_steps 2"),
    ],
)
def test_impossible_economies_are_refused(economy, message):
    with pytest.raises(ValueError, match=message):
        Economy(**economy)


@pytest.mark.parametrize(
    ("economy", "message"),
    [
        (Economy(scales=4), "scales must be at most the model's 3 scales; got 4"),
        (Economy(guided_scales=4), "guided_scales must be at most"),
        (Economy(sub_steps=17), "has 16 tokens, too few for 17 parts"),
        (Economy(refined_from=1), "got refined_from 1 and no model"),
    ],
)
def test_economies_that_do_not_fit_the_model_are_refused(model, tokenizer, economy, message):
    with pytest.raises(ValueError, match=message):
        draw(model, tokenizer, economy)


def test_a_refiner_must_speak_of_the_same_tokens(model, tokenizer, small):
    with pytest.raises(ValueError, match="got refined_from None and a model"):
        draw(model, tokenizer, refiner=small)
    other = VAR(var_config(schedule=ScaleSchedule((1, 4))))
    with pytest.raises(ValueError, match="classes, codes and schedule of the other"):
        draw(model, tokenizer, Economy(refined_from=1), refiner=other)


def test_a_single_scale_cannot_be_revealed():
    with pytest.raises(ValueError, match="A single scale has no inputs"):
        var_config(schedule=ScaleSchedule((4,)), revealed=0.5)
    assert dataclasses.replace(var_config(), revealed=0.5).revealed == 0.5


def test_a_cache_goes_on_with_the_first_of_its_images():
    cache = KVCache(3)
    cache.append(torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4.0).view(4, 1, 1, 1))
    cache.keep_rows(2)
    keys, values = cache.append(torch.full((2, 1, 1, 1), 9.0), torch.full((2, 1, 1, 1), 8.0))
    assert keys.flatten(1).tolist() == [[0, 9], [1, 9]]
    assert values.flatten(1).tolist() == [[0, 8], [1, 8]]


# Eight bits --------------------------------------------------------------------------------------------------------


def test_a_product_in_eight_bits_is_off_by_at_most_half_a_step_of_each_factor():
    weight, x = torch.randn(24, 32, generator=seeded()), torch.randn(2, 3, 32, generator=seeded(1)) * 5
    bias = torch.randn(24, generator=seeded(2))
    x[0, 0] = 0
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    found = Int8Linear(weight, bias)(x)
    assert found.shape == exact.shape
    (x8, x_scale), (_, w_scale) = rounded(x.flatten(0, 1)), rounded(weight)
    assert (x8.dtype, int(x8.abs().max())) == (torch.int8, 127)
    off = x_scale / 2 * weight.abs().sum(1) + (w_scale / 2).T * x.flatten(0, 1).abs().sum(1, keepdim=True)
    off = off + 32 * x_scale / 2 * (w_scale / 2).T
    assert ((found - exact).flatten(0, 1).abs() <= off * 1.001 + 1e-6).all()
    assert (found - exact).abs().max() > 1e-4  # it is rounded


def test_a_model_in_eight_bits_predicts_nearly_the_same(model, tokenizer):
    tokens = [torch.randint(16, (4, count), generator=seeded()) for count in SCHEDULE.counts]
    inputs, narrow = tokenizer.teacher_inputs(tokens), eight_bits(model)
    replaced = [module for module in narrow.modules() if isinstance(module, Int8Linear)]
    assert len(replaced) == 4 * len(model.blocks)
    assert narrow.head.weight is model.head.weight
    found, expected = narrow(LABELS, inputs), model(LABELS, inputs)
    assert 1e-4 < (found - expected).std() < 0.05 * expected.std()
    assert isinstance(model.blocks[0].attn.qkv, torch.nn.Linear)  # the model that was given stays as it was
    drawn = draw(narrow, tokenizer)
    assert drawn.images.isfinite().all()
