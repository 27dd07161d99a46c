"""MaskGIT: the masking schedule adds up, what is shown stays, and confidence decides what is shown next."""

import math

import pytest
import torch

from minivar import sampling
from minivar.models.maskgit import MaskGIT, MaskGITConfig
from minivar.sampling.masked import hidden_counts, hidden_share

SMALL = {"depth": 2, "width": 16, "heads": 2, "grid": (4, 4), "codebook_size": 8, "num_classes": 3}
LABELS = torch.tensor([0, 1, 2])


def small(seed: int = 0, **changes) -> MaskGIT:
    """A model whose gates are open."""
    torch.manual_seed(seed)
    model = MaskGIT(MaskGITConfig(**{**SMALL, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The schedule -------------------------------------------------------------------------------------------------------


def test_hiding_begins_with_all_and_ends_with_none():
    assert hidden_share(0.0) == 1 and hidden_share(1.0) == pytest.approx(0, abs=1e-15)
    shares = hidden_share(torch.linspace(0, 1, 50))
    assert (shares.diff() < 0).all() and (shares.diff().diff() < 0).all()  # slowly first, then faster and faster


@pytest.mark.parametrize("tokens, steps", [(256, 8), (49, 12), (16, 16), (16, 1), (7, 5)])
def test_what_is_shown_adds_up_to_all_tokens(tokens, steps):
    counts = hidden_counts(tokens, steps)
    shown = [before - after for before, after in zip([tokens, *counts], counts)]
    assert len(counts) == steps and counts[-1] == 0
    assert sum(shown) == tokens and min(shown) >= 1


def test_the_counts_are_the_cosines():
    assert hidden_counts(256, 8) == [math.floor(256 * math.cos(math.pi / 2 * step / 8)) for step in range(1, 8)] + [0]


# Drawing ------------------------------------------------------------------------------------------------------------


class Oracle(MaskGIT):
    """Knows the picture and is surer the further to the right a token stands; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(MaskGITConfig(**SMALL))
        self.picture_N, self.seen = torch.arange(16) % 8, []

    def forward(self, labels, tokens):
        self.seen.append(tokens.clone())
        surety_N = torch.arange(16.0) / 4 + 3
        return torch.nn.functional.one_hot(self.picture_N, 8)[None] * surety_N[None, :, None].expand(
            len(labels), -1, 1
        )


def test_the_surest_tokens_are_shown_first_and_stay():
    oracle = Oracle()
    sampling.sample_masked(oracle, None, LABELS, 4, choice_temperature=0.0, generator=seeded())
    counts = [16, *hidden_counts(16, 4)[:-1]]
    for tokens, count in zip(oracle.seen, counts):
        assert ((tokens == oracle.mask_code).sum(1) == count).all()
    for before, after in zip(oracle.seen, oracle.seen[1:]):
        shown = before != oracle.mask_code
        assert torch.equal(after[shown], before[shown])
    last = oracle.seen[-1] != oracle.mask_code
    assert last[:, 8:].float().mean() > last[:, :8].float().mean()


def test_what_is_shown_is_not_hidden_again_however_unsure_the_model_becomes():
    class Fickle(Oracle):
        def forward(self, labels, tokens):
            logits = super().forward(labels, tokens)
            return logits * torch.where(tokens == self.mask_code, 1.0, 0.01)[..., None]

    fickle = Fickle()
    sampling.sample_masked(fickle, None, LABELS, 4, choice_temperature=0.0, generator=seeded())
    for before, after in zip(fickle.seen, fickle.seen[1:]):
        assert (after[before != fickle.mask_code] != fickle.mask_code).all()


def test_choice_temperature_spreads_what_is_shown_first():
    def first(temperature):
        oracle = Oracle()
        sampling.sample_masked(oracle, None, LABELS, 4, choice_temperature=temperature, generator=seeded())
        return oracle.seen[1] != oracle.mask_code

    assert not torch.equal(first(0.0), first(1000.0))


def test_nothing_is_hidden_in_the_end_and_a_seed_repeats_itself():
    model = small()
    first, again, other = (
        sampling.sample_masked(model, None, LABELS, 5, cfg=2.0, generator=seeded(seed)).tokens for seed in (0, 0, 1)
    )
    assert first.shape == (3, 16) and first.max() < 8
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_step_draws_every_token_from_what_the_model_says_of_nothing():
    model = small()
    drawn = sampling.sample_masked(model, None, LABELS, 1, generator=seeded()).tokens
    logits = model(LABELS, torch.full((3, 16), model.mask_code))
    assert torch.equal(drawn, sampling.draw_tokens(logits, seeded()))


def test_without_guidance_the_null_half_is_left_out_and_with_it_draws_change():
    model, seen = small(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    plain = sampling.sample_masked(model, None, LABELS, 3, generator=seeded()).tokens
    guided = sampling.sample_masked(model, None, LABELS, 3, cfg=5.0, generator=seeded()).tokens
    assert seen == [3] * 3 + [6] * 3
    assert not torch.equal(plain, guided)


# The network --------------------------------------------------------------------------------------------------------


def test_every_position_sees_every_other():
    model, tokens = small(), torch.randint(8, (1, 16), generator=seeded())
    plain = model(LABELS[:1], tokens)
    for i in (0, 15):
        other = tokens.clone()
        other[0, i] = model.mask_code
        assert ((model(LABELS[:1], other) - plain).abs().amax(-1) > 1e-6).all()


def test_labels_are_dropped_in_training_only():
    model, tokens = small(label_dropout=1.0, drop_path=0.0), torch.full((3, 16), 8)
    with_class, without = model(LABELS, tokens), model(torch.full_like(LABELS, 3), tokens)
    assert (with_class - without).abs().max() > 1e-3
    assert torch.equal(model.train()(LABELS, tokens), without)


def test_class_and_position_matter():
    model, tokens = small(), torch.full((3, 16), 8)
    logits = model(LABELS, tokens)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"steps": 0}, "Drawing 16 tokens takes 1 to 16 steps; got 0"),
        ({"steps": 17}, "takes 1 to 16 steps; got 17"),
        ({"cfg": 0.5}, r"cfg must be a number in \[1, 1000\]; got 0.5"),
        ({"choice_temperature": -1.0}, "choice_temperature must be a finite number of at least 0; got -1.0"),
        ({"labels": torch.tensor([4])}, r"Labels must lie in 0..2"),
    ],
    ids=str,
)
def test_impossible_parameters_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampling.sample_masked(small(), None, **{"labels": LABELS, **change})


def test_tokens_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"Expected tokens of shape \(3, 16\); got \(3, 15\)"):
        small()(LABELS, torch.zeros(3, 15, dtype=torch.int64))
