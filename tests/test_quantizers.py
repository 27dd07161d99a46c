"""The residual pyramid against plain loops, its gradients, its loss, and the health of its codebook."""

import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from conftest import tokenizer_config

from minivar.precision import full_precision
from minivar.scales import ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer, phi_indices

RECTANGULAR = ScaleSchedule(((1, 1), (2, 3), (4, 5)))


def quantizer_on(
    schedule: ScaleSchedule, codebook_size: int = 12, code_dim: int = 3, **options
) -> MultiScaleQuantizer:
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(schedule, codebook_size, code_dim, **options)
    torch.nn.init.normal_(quantizer.codebook)
    return quantizer


# Plain loops, for one image as nested lists [channel][row][column] ------------------------------------------------


def area(plane, height, width):
    """Mean over cell (i, j): rows floor(i H / h) up to ceil((i + 1) H / h), likewise columns."""
    rows, columns = len(plane), len(plane[0])
    result = []
    for i in range(height):
        line = []
        for j in range(width):
            ys = range(i * rows // height, -(-(i + 1) * rows // height))
            xs = range(j * columns // width, -(-(j + 1) * columns // width))
            line.append(sum(plane[y][x] for y in ys for x in xs) / (len(ys) * len(xs)))
        result.append(line)
    return result


def cubic(t):
    """Keys' kernel with a = -0.75, PyTorch's "bicubic"."""
    t = abs(t)
    if t <= 1:
        return 1.25 * t**3 - 2.25 * t**2 + 1
    return -0.75 * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def bicubic(plane, height, width):
    rows, columns = len(plane), len(plane[0])
    result = []
    for i in range(height):
        line = []
        for j in range(width):
            y, x = (i + 0.5) * rows / height - 0.5, (j + 0.5) * columns / width - 0.5
            total = 0.0
            for a in range(math.floor(y) - 1, math.floor(y) + 3):
                for b in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = plane[min(max(a, 0), rows - 1)][min(max(b, 0), columns - 1)]
                    total += cubic(y - a) * cubic(x - b) * value
            line.append(total)
        result.append(line)
    return result


def convolved(planes, weight, bias):
    """3 x 3, zeros around."""
    rows, columns = len(planes[0]), len(planes[0][0])
    result = []
    for out in range(len(weight)):
        plane = [[bias[out]] * columns for _ in range(rows)]
        for c, channel in enumerate(planes):
            for y in range(rows):
                for x in range(columns):
                    for dy in (-1, 0, 1):
                        for dx in (-1, 0, 1):
                            if 0 <= y + dy < rows and 0 <= x + dx < columns:
                                plane[y][x] += weight[out][c][dy + 1][dx + 1] * channel[y + dy][x + dx]
        result.append(plane)
    return result


def reference(quantizer: MultiScaleQuantizer, features):
    """Algorithm 1 of the paper for one image: (tokens of each scale, f_hat)."""
    codes, (rows, columns) = quantizer.codebook.tolist(), quantizer.schedule.final_grid
    residual = [[list(line) for line in plane] for plane in features]
    f_hat = [[[0.0] * columns for _ in range(rows)] for _ in features]
    tokens = []
    for k, (height, width) in enumerate(quantizer.schedule.grids):
        small = [area(plane, height, width) for plane in residual]
        chosen = []
        for y in range(height):
            for x in range(width):
                z = [plane[y][x] for plane in small]
                distances = [sum((a - b) ** 2 for a, b in zip(z, code)) for code in codes]
                chosen.append(distances.index(min(distances)))
        tokens.append(chosen)
        maps = [
            [[codes[chosen[y * width + x]][c] for x in range(width)] for y in range(height)] for c in range(len(z))
        ]
        up = [bicubic(plane, rows, columns) for plane in maps]
        phi = quantizer.phis[quantizer.phi_of_scale[k]]
        repaired = convolved(up, phi.conv.weight.tolist(), phi.conv.bias.tolist())
        for c in range(len(z)):
            for y in range(rows):
                for x in range(columns):
                    h = (1 - phi.ratio) * up[c][y][x] + phi.ratio * repaired[c][y][x]
                    f_hat[c][y][x] += h
                    residual[c][y][x] -= h
    return tokens, f_hat


# --------------------------------------------------------------------------------------------------------------------


def test_phi_map_is_the_published_one():
    assert phi_indices(10, 4) == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)


def test_a_tie_between_two_ticks_goes_to_the_finer_as_chapter_04_says():
    ticks = [Fraction(n, 36) for n in (3, 13, 23, 33)]
    for count in range(1, 101):
        places = [Fraction(k, max(count - 1, 1)) for k in range(count)]
        exact = tuple(max(range(4), key=lambda i: (-abs(ticks[i] - place), i)) for place in places)  # noqa: B023
        assert phi_indices(count, 4) == exact


def test_phi_map_of_one_scale_and_of_one_phi():
    assert phi_indices(1, 4) == (0,)
    assert phi_indices(5, 1) == (0, 0, 0, 0, 0)


def test_residual_quantisation_by_hand():
    # One channel, phi switched off, codes -2, 0, 3. The mean of the map is 3: scale 1 takes code 3 (index 2).
    # What is left, -2.2, -0.9, 0.4, 2.7, is nearest to -2, 0, 0, 3.
    quantizer = MultiScaleQuantizer(ScaleSchedule((1, 2)), 3, 1, phi_ratio=0.0)
    quantizer.codebook.data = torch.tensor([[-2.0], [0.0], [3.0]])
    features = torch.tensor([[[[0.8, 2.1], [3.4, 5.7]]]])
    tokens = quantizer.encode(features)
    assert [t.tolist() for t in tokens] == [[[2]], [[0, 1, 1, 2]]]
    after = list(quantizer.accumulate(tokens))
    assert after[0].flatten().tolist() == [3, 3, 3, 3]
    assert after[1].flatten().tolist() == [1, 3, 3, 6]


@pytest.mark.parametrize("schedule", [ScaleSchedule((1, 2, 4)), RECTANGULAR], ids=str)
def test_residual_quantisation_equals_plain_loops(schedule):
    quantizer = quantizer_on(schedule)
    features = torch.randn(2, 3, *schedule.final_grid)
    tokens = quantizer.encode(features)
    f_hat = list(quantizer.accumulate(tokens))[-1]
    for b in range(2):
        expected_tokens, expected_f_hat = reference(quantizer, features[b].tolist())
        assert [t[b].tolist() for t in tokens] == expected_tokens
        assert torch.allclose(f_hat[b], torch.tensor(expected_f_hat), atol=1e-5)


def test_training_forward_agrees_with_encode_and_accumulate():
    quantizer = quantizer_on(RECTANGULAR)
    features = torch.randn(2, 3, 4, 5)
    out, tokens = quantizer(features), quantizer.encode(features)
    f_hats = list(quantizer.accumulate(tokens))
    assert all(torch.equal(a, b) for a, b in zip(out.tokens, tokens))
    assert torch.allclose(out.quantized, f_hats[-1], atol=1e-6)
    errors = torch.stack([(f - features).square().mean() for f in f_hats])
    assert torch.allclose(out.scale_errors, errors, atol=1e-6)
    assert [tuple(r.shape) for r in out.residuals] == [(2, 3), (12, 3), (40, 3)]


def test_loss_equals_its_formula():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), beta=0.4)
    features = torch.randn(2, 3, 4, 4)
    expected = 0.0
    f_hats = list(quantizer.accumulate(quantizer.encode(features)))
    for f_hat in f_hats:
        commitment = ((features - f_hat) ** 2).sum() / features.numel()
        codebook = ((f_hat - features) ** 2).sum() / features.numel()
        expected += (0.4 * commitment + codebook) / len(f_hats)
    assert quantizer(features).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_passes_straight_through():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)))
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    incoming = torch.randn(2, 3, 4, 4)
    (quantizer(features).quantized * incoming).sum().backward()
    assert torch.equal(features.grad, incoming)
    assert quantizer.codebook.grad is None  # the codebook learns from the loss alone


def test_loss_moves_features_by_commitment_and_codes_by_the_codebook_term():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), beta=0.25)
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    quantizer(features).loss.backward()
    f_hats = [f.detach() for f in quantizer.accumulate(quantizer.encode(features))]
    expected = sum(0.25 * 2 * (features.detach() - f) / features.numel() for f in f_hats) / len(f_hats)
    assert torch.allclose(features.grad, expected, atol=1e-6)
    used = torch.cat([t.flatten() for t in quantizer.encode(features)]).unique()
    moved = quantizer.codebook.grad.abs().sum(1).nonzero()[:, 0]
    assert torch.equal(moved, used)
    assert all(p.conv.weight.grad is not None for p in (quantizer.phis[i] for i in quantizer.phi_of_scale))


def test_a_token_map_of_constant_images_survives_the_round_trip():
    # Re-encoding f_hat is not exact in general: scale 1 sees the mean of all scales, not only its own contribution.
    # It is exact where only scale 1 contributes: a constant map, upsampled and averaged, stays what it is.
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), phi_ratio=0.0)
    with torch.no_grad():
        quantizer.codebook[0] = 0
    first = torch.arange(12)[:, None]
    tokens = [first, torch.zeros(12, 4, dtype=torch.int64), torch.zeros(12, 16, dtype=torch.int64)]
    again = quantizer.encode(list(quantizer.accumulate(tokens))[-1])
    assert all(torch.equal(a, b) for a, b in zip(again, tokens))


def test_tokens_of_the_last_scale_survive_where_coarse_scales_see_nothing():
    # A checkerboard of +c, -c averages to zero on every coarser grid, so those take the zero code.
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=11, phi_ratio=0.0)
    with torch.no_grad():
        quantizer.codebook[0] = 0
        quantizer.codebook[6:] = -quantizer.codebook[1:6]  # 1..5 and their negatives 6..10
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    board = ((rows + columns) % 2).flatten()
    last = torch.stack([code + 5 * board for code in range(1, 6)])
    tokens = [torch.zeros(5, 1, dtype=torch.int64), torch.zeros(5, 4, dtype=torch.int64), last]
    again = quantizer.encode(list(quantizer.accumulate(tokens))[-1])
    assert all(torch.equal(a, b) for a, b in zip(again, tokens))


def test_one_scale_without_phi_is_a_plain_quantiser():
    quantizer = quantizer_on(ScaleSchedule((3,)), phi_ratio=0.0)
    tokens = torch.randint(12, (4, 9))
    f_hat = list(quantizer.accumulate([tokens]))[-1]
    assert torch.equal(f_hat.flatten(2).transpose(1, 2), quantizer.codebook[tokens])
    assert torch.equal(quantizer.encode(f_hat)[0], tokens)


def test_teacher_inputs_are_the_sum_so_far_averaged_down_to_the_next_grid():
    quantizer = quantizer_on(RECTANGULAR)
    tokens = quantizer.encode(torch.randn(2, 3, 4, 5))
    inputs = quantizer.teacher_inputs(tokens)
    assert inputs.shape == (2, 26, 3)
    first, second, _ = quantizer.accumulate(tokens)
    expected = torch.tensor([area(plane, 2, 3) for plane in first[0].tolist()]).flatten(1).T
    assert torch.allclose(inputs[0, :6], expected, atol=1e-6)
    # The last grid is the full one: nothing is averaged.
    assert torch.equal(inputs[:, 6:], second.flatten(2).transpose(1, 2))


def test_teacher_inputs_do_not_depend_on_the_last_scale():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)))
    tokens = quantizer.encode(torch.randn(2, 3, 4, 4))
    other = [*tokens[:-1], (tokens[-1] + 1) % 12]
    assert torch.equal(quantizer.teacher_inputs(tokens), quantizer.teacher_inputs(other))


def test_autocast_changes_no_token_and_no_sum():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=64)
    features = torch.randn(8, 3, 4, 4)
    plain = quantizer(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = quantizer(features)
        inputs = quantizer.teacher_inputs(plain.tokens)
    assert all(torch.equal(a, b) for a, b in zip(plain.tokens, mixed.tokens))
    assert torch.equal(plain.quantized, mixed.quantized)
    assert torch.equal(inputs, quantizer.teacher_inputs(plain.tokens))


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps", "xpu"])
def test_full_precision_switches_autocast_off_whatever_the_device(device):
    context = full_precision(SimpleNamespace(device=torch.device(device)))
    assert isinstance(context, torch.autocast)
    assert context.device == device and not context._enabled
    with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(torch.zeros(1)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert full_precision(torch.zeros(1, device="meta")).__enter__() is None  # where autocast is unknown


def test_usage_is_recorded_in_training_only():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4))).eval()
    features = torch.randn(2, 3, 4, 4)
    quantizer(features)
    assert quantizer.usage_KV.sum() == 0
    tokens = quantizer.train()(features).tokens
    for k in range(3):
        assert quantizer.usage_KV[k].tolist() == torch.bincount(tokens[k].flatten(), minlength=12).tolist()


@pytest.mark.parametrize("size", [10, 4000])
def test_initial_codes_fill_a_small_cube_evenly(size):
    torch.manual_seed(0)
    codebook = size * MultiScaleQuantizer(ScaleSchedule((1, 2)), size, 32).codebook
    assert -1 <= codebook.min() < -0.95 and 0.95 < codebook.max() <= 1
    assert codebook.mean().item() == pytest.approx(0, abs=0.1)
    assert codebook.square().mean().item() == pytest.approx(1 / 3, abs=0.05)


def test_usage_is_an_average_of_which_each_batch_is_a_hundredth():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4))).train()
    expected = None
    for seed in range(3):
        features = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        hits = [torch.bincount(tokens.flatten(), minlength=12).double() for tokens in quantizer(features).tokens]
        # the first batch is taken whole, so that the average need not be freed of a start at zero
        expected = torch.stack(hits) if expected is None else 0.99 * expected + 0.01 * torch.stack(hits)
    torch.testing.assert_close(quantizer.usage_KV.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_code_is_dead_below_a_twentieth_of_its_fair_share():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=100)
    usage_KV = torch.ones(3, 100)
    usage_KV[:, 0], usage_KV[:, 1], usage_KV[:, 2], usage_KV[:, 3] = 0.04, 0.06, 0.4, 0.0
    usage_KV[0, 3] = 0.2  # one scale alone uses it: .2 of three scales' 3 are .067 of its share
    usage_KV[:, 4:] *= (300 - usage_KV[:, :4].sum()) / 288  # the mean over codes is 3, one a scale
    quantizer.usage_KV.copy_(usage_KV)
    before = quantizer.codebook.detach().clone()
    residuals = [torch.full((5, 3), 10.0 + k) for k in range(3)]
    assert quantizer.revive_dead_codes(residuals) == 1
    changed = (quantizer.codebook != before).any(1).nonzero().flatten().tolist()
    assert changed == [0]
    torch.testing.assert_close(quantizer.usage_KV[:, 0], usage_KV.mean(1), rtol=0.02, atol=0)  # starts as average
    assert torch.equal(quantizer.usage_KV[:, 1:], usage_KV[:, 1:])


def test_with_scales_alike_a_code_of_a_scale_with_few_tokens_is_as_busy_as_one_of_a_scale_with_many():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=100)
    usage_KV = torch.zeros(3, 100)
    usage_KV[0, :20], usage_KV[1, 20:50], usage_KV[2, 50:90] = 1 / 20, 4 / 30, 16 / 40  # 21 tokens
    usage_KV[2, 90:], usage_KV[1, 95:] = 16 / 200, 4 / 700
    # shares of 3 / 100 on average: about 1 / 20, 1 / 30 and 1 / 40 of the first ninety, about 1 / 200 of the others
    quantizer.usage_KV.copy_(usage_KV)
    before, residuals = quantizer.codebook.detach().clone(), [torch.full((5, 3), 10.0)] * 3

    def moved(**how) -> list[int]:
        quantizer.revive_dead_codes(residuals, **how)
        changed = (quantizer.codebook != before).any(1).nonzero().flatten().tolist()
        quantizer.codebook.data.copy_(before)
        quantizer.usage_KV.copy_(usage_KV)
        return changed

    assert moved(threshold=0.3, scales_alike=True) == list(range(90, 100))
    assert moved(threshold=0.3) == list(range(20))  # one use an image, shared by twenty


def test_coarse_scales_get_as_many_revived_codes_as_fine_ones():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=3000)
    quantizer.usage_KV[:, :300] = 1.0  # all others are dead
    torch.manual_seed(0)
    residuals = [torch.full((count, 3), 10.0 + k) for k, count in enumerate((1, 4, 16))]
    assert quantizer.revive_dead_codes(residuals) == 2700
    scales = [(quantizer.codebook[300:] == 10.0 + k).all(1).float().mean().item() for k in range(3)]
    assert scales == pytest.approx([1 / 3] * 3, abs=0.04)


def test_revival_moves_dead_codes_onto_residuals_and_leaves_the_living():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=20).train()
    with torch.no_grad():
        quantizer.codebook[5:] += 100  # far from everything: never used
    features = torch.randn(16, 3, 4, 4)
    out = quantizer(features)
    before, used = quantizer.codebook.detach().clone(), torch.cat([t.flatten() for t in out.tokens]).unique()
    assert used.max() < 5
    moved = quantizer.revive_dead_codes(out.residuals)
    assert moved >= 15
    alive = [code for code in range(20) if torch.equal(quantizer.codebook[code], before[code])]
    assert len(alive) == 20 - moved
    residuals = torch.cat(out.residuals)
    for code in set(range(20)) - set(alive):
        assert (residuals == quantizer.codebook[code]).all(1).any()
    used_now = torch.cat([t.flatten() for t in quantizer(features).tokens]).unique()
    assert len(used_now) >= 15


def test_a_revived_code_is_not_revived_again_at_once():
    quantizer = quantizer_on(ScaleSchedule((1, 2, 4)), codebook_size=20).train()
    with torch.no_grad():
        quantizer.codebook[5:] += 100
    out = quantizer(torch.randn(16, 3, 4, 4))
    assert quantizer.revive_dead_codes(out.residuals) > 0
    assert quantizer.revive_dead_codes(out.residuals) == 0


def test_scales_with_codes_of_their_own_use_no_others(tokenizer):
    quantizer = MultiScaleQuantizer(ScaleSchedule((1, 2, 4)), 20, 3, own_codes=True).train()
    assert [list(quantizer.part(k)) for k in range(3)] == [
        list(range(0, 6)), list(range(6, 13)), list(range(13, 20)),
    ]  # fmt: skip
    torch.manual_seed(0)
    torch.nn.init.normal_(quantizer.codebook)
    features = torch.randn(64, 3, 4, 4)
    out = quantizer(features)
    for k, tokens in enumerate(out.tokens):
        mine = quantizer.part(k)
        assert mine.start <= tokens.min() and tokens.max() < mine.stop
        codes = quantizer.codebook[mine.start : mine.stop]
        assert torch.equal(tokens.flatten(), torch.cdist(out.residuals[k], codes).argmin(1) + mine.start)
    quantizer.usage_KV.zero_()
    quantizer.usage_KV[:, :1] = 1.0  # all others are dead
    marked = [torch.full((5, 3), 10.0 + k) for k in range(3)]
    quantizer.revive_dead_codes(marked)
    assert quantizer.codebook[1:, 0].tolist() == [10.0] * 5 + [11.0] * 7 + [12.0] * 7  # by residuals of their scale


def test_codes_of_their_own_need_several_scales_and_as_many_codes():
    with pytest.raises(ValueError, match="at least one code each; got quantizer 'single', codebook_size 16"):
        tokenizer_config(quantizer="single", schedule=None, own_codes=True)
    with pytest.raises(ValueError, match="got quantizer 'multi-scale', codebook_size 2"):
        tokenizer_config(codebook_size=2, own_codes=True)
