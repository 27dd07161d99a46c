"""In-painting and out-painting in pixels: what stays is bit for bit as given, and what is hidden is not looked at."""

import pytest
import torch
import torch.nn.functional as F
from conftest import tokenizer_config, var_config, wake

from minivar import data, sampling
from minivar.models import GPT, VAR, DiT, DiTConfig, GPTConfig, MaskGIT, MaskGITConfig
from minivar.sampling import inpainting
from minivar.tokenizer import VQVAE

LABELS = torch.tensor([0, 4, 5])  # the last is the null class
SHAPE = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 5}
KINDS = ("var", "llama", "gpt2", "maskgit")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair_of(kind: str):
    """A model whose gates are open, and a tokenizer of 16 x 16 grey pixels that it understands."""
    if kind == "var":
        return wake(VAR(var_config())), wake(VQVAE(tokenizer_config()))
    tokenizer = wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))
    if kind == "maskgit":
        return wake(MaskGIT(MaskGITConfig(**SHAPE))), tokenizer
    return wake(GPT(GPTConfig(style=kind, **SHAPE))), tokenizer


@pytest.fixture(params=KINDS)
def pair(request):
    return pair_of(request.param)


def strokes() -> torch.Tensor:
    """A mask that cuts through cells."""
    return data.brush_mask((16, 16), [(3, 9), (9, 13)], 2.2)


# Cells, surroundings, compositing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 13])
def test_a_cell_stays_only_if_all_of_its_pixels_do(size):
    tokenizer = VQVAE(tokenizer_config(image_size=size))
    pixels = torch.arange(size * size).view(size, size)
    left, top = (-size % 4) // 2, (-size % 4) // 2
    for pixel in pixels.flatten().tolist():
        cells = sampling.kept_cells(tokenizer, pixels != pixel)
        row, column = divmod(pixel, size)
        hit = ((row + top) // 4, (column + left) // 4)
        assert cells.shape == (4, 4) and (~cells).nonzero().tolist() == [list(hit)]


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (1, 9)])
def test_surroundings_leave_what_stays_and_make_the_rest_of_it(size):
    images = torch.rand(2, 3, *size, generator=seeded()) * 2 - 1
    keep = torch.rand(size, generator=seeded(1)) < 0.3
    keep[:, :4] = False  # a gap of several pixels
    keep[-1, -1] = True
    found = sampling.extended(images, keep)
    assert torch.equal(found[..., keep], images[..., keep])
    low, high = images[..., keep].amin(-1, keepdim=True), images[..., keep].amax(-1, keepdim=True)
    assert (found.flatten(2) >= low - 1e-6).all() and (found.flatten(2) <= high + 1e-6).all()
    changed = torch.where(keep, images, torch.nan)
    assert torch.equal(sampling.extended(changed, keep), found)


def test_surroundings_follow_what_is_near():
    image = torch.full((1, 1, 16, 16), -1.0)
    image[..., 8:] = 1.0
    keep = data.box_mask((16, 16), 4, 2, 8, 4) & data.box_mask((16, 16), 4, 10, 8, 4)
    found = sampling.extended(image, keep)[0, 0]
    assert found[4:12, 2:5].mean() < -0.8 and found[4:12, 11:14].mean() > 0.8


def test_the_feather_lies_inside_what_is_filled():
    given, drawn = torch.ones(1, 1, 3, 7), torch.zeros(1, 1, 3, 7)
    keep = torch.tensor([True] + [False] * 6).expand(3, 7)
    row = sampling.composite(given, drawn, keep, feather=3)[0, 0, 1]
    assert torch.allclose(row, torch.tensor([1.0, 0.75, 0.5, 0.25, 0, 0, 0]))
    assert sampling.composite(given, drawn, keep)[0, 0, 1].tolist() == [1, 0, 0, 0, 0, 0, 0]


# In-painting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("feather", [0, 3])
def test_what_stays_is_bit_for_bit_as_given_and_the_rest_is_drawn(pair, images, feather):
    keep = strokes()
    drawn = sampling.inpaint(*pair, images, LABELS, keep, feather, generator=seeded()).images
    given = (images + 1) / 2
    assert torch.equal(drawn[..., keep], given[..., keep])
    assert ((drawn - given)[..., ~keep].abs() > 1e-3).float().mean() > 0.9
    assert drawn.min() >= 0 and drawn.max() <= 1


def test_what_lies_under_the_mask_is_not_looked_at(pair, images):
    keep = strokes()
    other = torch.where(keep, images, torch.rand(images.shape, generator=seeded(5)) * 2 - 1)
    first, second = (
        sampling.inpaint(*pair, each, LABELS, keep, 2, generator=seeded()).images for each in (images, other)
    )
    assert torch.equal(first, second)


def test_a_seed_repeats_itself_and_samples_differ(pair, images):
    keep, same = strokes(), images[:1].expand(3, -1, -1, -1)
    first, again, other = (
        sampling.inpaint(*pair, same, LABELS[:1].expand(3), keep, generator=seeded(seed)).images for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[1], first[2])


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_each_pass_encodes_what_the_one_before_completed(pair, images, passes):
    (model, tokenizer), keep = pair, strokes()
    cells, generator = sampling.kept_cells(tokenizer, keep), seeded()
    shown = sampling.extended(images, keep)
    for _ in range(passes):
        drawn = sampling.redraw(model, tokenizer, shown, LABELS, cells, generator)
        shown = sampling.composite(images, drawn.images * 2 - 1, keep)
    found = sampling.inpaint(model, tokenizer, images, LABELS, keep, passes=passes, generator=seeded())
    assert torch.equal(found.tokens, drawn.tokens) and torch.equal(found.images, (shown + 1) / 2)


def test_redrawing_by_next_scale_is_the_papers_editing(images):
    model, tokenizer = pair_of("var")
    cells = sampling.kept_cells(tokenizer, strokes())
    how = {"cfg": 2.0, "top_k": 7, "top_p": 0.9}
    found = sampling.redraw(model, tokenizer, images, LABELS, cells, seeded(), **how)
    expected = sampling.edit(model, tokenizer, images, LABELS, cells.float(), **how, generator=seeded())
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.images, expected.images)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_raster_order_and_maskgit_keep_the_tokens_of_cells_that_stay(kind, images):
    model, tokenizer = pair_of(kind)
    cells = sampling.kept_cells(tokenizer, strokes()).flatten()
    given = tokenizer.encode(images)[0]
    drawn = sampling.redraw(model, tokenizer, images, LABELS, cells.view(4, 4), seeded(), cfg=2.0).tokens
    assert 3 < cells.sum() < 13 and torch.equal(drawn[:, cells], given[:, cells])
    assert (drawn[:, ~cells] != given[:, ~cells]).any() and drawn.min() >= 0 and drawn.max() < 16


# Given tokens -----------------------------------------------------------------------------------------------------


def test_raster_order_sees_what_is_given_above_and_nothing_of_what_follows():
    gpt, _ = pair_of("llama")
    given = torch.randint(16, (3, 16), generator=seeded())
    given[:, 6:9] = -1
    drawn = sampling.sample_raster(gpt, None, LABELS, greedy=True, given=given).tokens
    expected = gpt(LABELS, given[:, :6])[:, -1].argmax(-1)  # teacher forcing up to the first gap
    assert torch.equal(drawn[:, 6], expected)
    below, above = given.clone(), given.clone()
    below[:, 9:] = (below[:, 9:] + 1) % 16
    above[:, :6] = (above[:, :6] + 1) % 16
    assert torch.equal(
        sampling.sample_raster(gpt, None, LABELS, greedy=True, given=below).tokens[:, :9], drawn[:, :9]
    )
    assert not torch.equal(
        sampling.sample_raster(gpt, None, LABELS, greedy=True, given=above).tokens[:, 6:9], drawn[:, 6:9]
    )


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_given_tokens_are_the_same_with_a_cache_and_without(cfg):
    gpt, _ = pair_of("gpt2")
    given = torch.where(torch.rand(3, 16, generator=seeded()) < 0.5, 3, -1)
    cached, plain = (
        sampling.sample_raster(gpt, None, LABELS, cfg, generator=seeded(), given=given, use_cache=cache).tokens
        for cache in (True, False)
    )
    assert torch.equal(cached, plain) and torch.equal(cached[given >= 0], given[given >= 0])


@pytest.mark.parametrize("kind", ["llama", "maskgit"])
def test_nothing_given_is_plain_drawing(kind):
    model, _ = pair_of(kind)
    loop = sampling.sample_masked if kind == "maskgit" else sampling.sample_raster
    plain, none = (
        loop(model, None, LABELS, generator=seeded(), given=given).tokens for given in (None, torch.full((3, 16), -1))
    )
    assert torch.equal(plain, none)


def test_maskgit_is_shown_what_is_given_from_the_first_pass_and_hides_it_never():
    model, _ = pair_of("maskgit")
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    given = torch.full((3, 16), -1)
    given[:, ::3] = 7
    sampling.sample_masked(model, None, LABELS, 4, generator=seeded(), given=given)
    shown = given >= 0
    assert torch.equal(seen[0], torch.where(shown, given, model.mask_code)) and len(seen) == 4
    assert all(torch.equal(tokens[shown], given[shown]) for tokens in seen)
    seen.clear()
    given[:, 2:] = 7
    sampling.sample_masked(model, None, LABELS, 8, generator=seeded(), given=given)
    assert len(seen) == 1  # one hidden token takes one step, whatever the number of steps


@pytest.mark.parametrize("kind", ["llama", "maskgit"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.zeros(3, 15).long(), r"int64 \(3, 16\); got torch.int64 \(3, 15\)"),
        (torch.zeros(3, 16), r"got torch.float32 \(3, 16\)"),
        (torch.full((3, 16), -2), r"in 0\.\.15, or be -1 where they are to be drawn; got values from -2 to -2"),
        (torch.full((3, 16), 16), "got values from 16 to 16"),
    ],
    ids=lambda value: "",
)
def test_given_tokens_that_cannot_be_are_refused(kind, given, said):
    model, _ = pair_of(kind)
    loop = sampling.sample_masked if kind == "maskgit" else sampling.sample_raster
    with pytest.raises(ValueError, match=said):
        loop(model, None, LABELS, given=given)


def test_maskgit_hides_as_many_tokens_of_every_image():
    given = torch.full((3, 16), -1)
    given[1, :5] = 3
    with pytest.raises(ValueError, match="as many hidden tokens in each image; got 11 to 16"):
        sampling.sample_masked(pair_of("maskgit")[0], None, LABELS, given=given)


# Out-painting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margins", [(0, 0, 3, 0), (8, 0, 0, 0), (0, 20, 0, 0), (5, 6, 7, 40)])
def test_a_picture_goes_on_beyond_its_border(pair, images, margins):
    top, bottom, left, right = margins
    drawn = sampling.outpaint(*pair, images, LABELS, margins, passes=1, generator=seeded()).images
    assert drawn.shape == (3, 1, top + 16 + bottom, left + 16 + right)
    inside = (..., slice(top, top + 16), slice(left, left + 16))
    assert torch.equal(drawn[inside], (images + 1) / 2)
    beyond = torch.ones(drawn.shape[-2:], dtype=torch.bool)
    beyond[inside] = False
    blank = (drawn == 0.5).all(1)[:, beyond]  # what the canvas began with
    assert not blank.any()
    again = sampling.outpaint(*pair, images, LABELS, margins, passes=1, generator=seeded()).images
    assert torch.equal(drawn, again)


def test_one_step_beyond_the_border_is_in_painting_of_the_shifted_picture(pair, images):
    window = F.pad(images, (0, 0, 5, 0))[..., :16, :]
    keep = torch.arange(16)[:, None].expand(16, 16) >= 5
    expected = sampling.inpaint(*pair, window, LABELS, keep, 1, generator=seeded()).images
    found = sampling.outpaint(*pair, images, LABELS, (5, 0, 0, 0), 1, generator=seeded()).images
    assert torch.equal(found[..., :16, :], expected)


def test_at_least_half_of_every_window_is_known(images, monkeypatch):
    seen, completed = [], inpainting._completed

    def watched(model, tokenizer, images, labels, keep, *others):
        seen.append(keep.float().mean().item())
        return completed(model, tokenizer, images, labels, keep, *others)

    monkeypatch.setattr(inpainting, "_completed", watched)
    sampling.outpaint(*pair_of("var"), images, LABELS, (20, 9, 17, 3), passes=1, generator=seeded())
    assert len(seen) > 10 and min(seen) >= 0.5


# What cannot be meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"keep": torch.ones(4, 4, dtype=torch.bool)}, r"bool \(16, 16\), .* got torch.bool \(4, 4\)"),
        ({"keep": torch.ones(16, 16, dtype=torch.bool)}, "nothing to fill"),
        ({"labels": LABELS[:2]}, r"a label for each; got \(3, 1, 16, 16\) and \(2,\)"),
        ({"images": torch.zeros(3, 16, 16)}, r"Expected images \(B, C, height, width\) .* got \(3, 16, 16\)"),
        ({"feather": -1}, "a feather of at least 0 and one pass or more; got -1 and 2"),
        ({"passes": 0}, "got 0 and 0"),
    ],
    ids=lambda value: "",
)
def test_edits_that_cannot_be_meant_are_refused(images, changed, said):
    how = {"images": images, "labels": LABELS, "keep": strokes(), **changed}
    with pytest.raises(ValueError, match=said):
        sampling.inpaint(*pair_of("var"), **how)


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (1, 0, -1, 0), (1, 2, 3)])
def test_margins_that_cannot_be_meant_are_refused(images, margins):
    with pytest.raises(ValueError, match=r"four margins \(top, bottom, left, right\) of at least 0 pixels, and one"):
        sampling.outpaint(*pair_of("var"), images, LABELS, margins)


def test_a_model_that_draws_no_tokens_cannot_edit(images):
    dit = DiT(DiTConfig(depth=1, width=16, heads=2, channels=4, input_size=4, patch=1, num_classes=5))
    with pytest.raises(ValueError, match="expected VAR, GPT or MaskGIT; got a DiT"):
        sampling.inpaint(dit, pair_of("var")[1], images, LABELS, strokes())
