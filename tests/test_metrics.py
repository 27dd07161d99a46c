"""Distances between sets of features, codebook usage, and the classifier that judges digits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from minivar import data, evaluation


def gaussian(count: int, mean: list[float], scale: list[float], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, len(mean), generator=generator) * torch.tensor(scale) + torch.tensor(mean)


def standardised(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """Points whose sample mean is exactly 0 and whose sample covariance is exactly 1."""
    points = torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points - points.mean(0)
    return points @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(points.T))).T


def test_frechet_distance_of_axis_aligned_gaussians_is_the_textbook_formula():
    # |mu_a - mu_b|^2 + sum (s_a - s_b)^2
    base = standardised(200, 3)
    a = base * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([0.0, 1.0, 0.0])
    b = base.flip(0) * torch.tensor([2.0, 2.0, 0.5]) + torch.tensor([3.0, 1.0, 4.0])
    expected = 9 + 0 + 16 + (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_correlated_gaussians_equals_a_direct_matrix_root():
    generator = torch.Generator().manual_seed(1)
    mix_a, mix_b = (torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    a, b = standardised(300, 4) @ mix_a.T, standardised(300, 4, seed=2) @ mix_b.T + 0.5
    # Eigenvalues of S_a S_b, a product of two positive matrices, are real and positive; its root has their roots.
    eigenvalues = torch.linalg.eigvals(mix_a @ mix_a.T @ mix_b @ mix_b.T).real
    expected = 4 * 0.25 + (mix_a**2).sum() + (mix_b**2).sum() - 2 * eigenvalues.sqrt().sum()
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-6)


def test_frechet_distance_is_zero_for_equal_sets_and_symmetric():
    a, b = gaussian(500, [0, 0], [1, 1], 0), gaussian(500, [1, 0], [1, 2], 1)
    assert evaluation.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert evaluation.frechet_distance(a, b) == pytest.approx(evaluation.frechet_distance(b, a), rel=1e-6)


def test_frechet_distance_survives_features_that_never_fire():
    a, b = gaussian(100, [0, 0, 0], [1, 1, 0], 0), gaussian(100, [0, 2, 0], [1, 1, 0], 1)
    assert 3 < evaluation.frechet_distance(a, b) < 5


def test_moments_of_batches_are_those_of_all_together():
    points = gaussian(103, [5, -3, 0], [1, 2, 0.1], 0)
    whole, parts = evaluation.Moments(points), evaluation.Moments()
    for batch in points.split(25):
        parts.add(batch)
    assert parts.count == 103
    assert np.allclose(parts.mean, points.double().mean(0)) and np.allclose(whole.mean, parts.mean)
    assert np.allclose(parts.covariance, np.cov(points.double().numpy(), rowvar=False))
    other = gaussian(90, [0, 0, 0], [1, 1, 1], 1)
    distance = evaluation.frechet_distance(points, other)
    assert evaluation.frechet_distance(parts, evaluation.Moments(other)) == pytest.approx(distance, rel=1e-9)


class Three:
    """Ranks of which this is one, the others having added the same."""

    def gather(self, value):
        return [value] * 3


def test_moments_of_ranks_are_merged():
    points = gaussian(50, [1, 2], [1, 1], 0)
    merged = evaluation.Moments(points).merged(Three())
    together = evaluation.Moments(points.repeat(3, 1))
    assert merged.count == 150
    assert np.allclose(merged.mean, together.mean) and np.allclose(merged.covariance, together.covariance)


def test_too_few_samples_for_a_distance_warn_and_sets_that_do_not_fit_are_refused():
    with pytest.warns(UserWarning, match="over 3 features from 3 samples: too few, it is biased upwards"):
        evaluation.frechet_distance(gaussian(3, [0] * 3, [1] * 3, 0), gaussian(9, [0] * 3, [1] * 3, 1))
    with pytest.raises(ValueError, match="one size; got 1 of 2 numbers and 5 of 2 numbers"):
        evaluation.frechet_distance(torch.zeros(1, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="one size; got 9 of 3 numbers and 9 of 2 numbers"):
        evaluation.frechet_distance(torch.zeros(9, 3), torch.zeros(9, 2))
    with pytest.raises(ValueError, match=r"must be \(B, F\); got \(4,\)"):
        evaluation.Moments(torch.zeros(4))


def test_inception_score_by_hand():
    decided = torch.eye(4).repeat(5, 1)
    assert evaluation.inception_score(decided, 5) == pytest.approx((4, 0))
    assert evaluation.inception_score(torch.full((20, 4), 0.25), 2) == pytest.approx((1, 0))
    half = torch.tensor([[1.0, 0], [0.5, 0.5]])  # the mean is (3/4, 1/4)
    divergence = (math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2
    assert evaluation.inception_score(half, 1)[0] == pytest.approx(math.exp(divergence))
    mean, deviation = evaluation.inception_score(torch.cat([torch.eye(2), torch.full((2, 2), 0.5)]), 2)
    assert (mean, deviation) == pytest.approx((1.5, 0.5))
    with pytest.raises(ValueError, match="10 parts need at least as many images; got 3"):
        evaluation.inception_score(torch.eye(3))


def test_a_bootstrap_interval_holds_the_mean_as_often_as_it_says():
    """Of 100 samples of 50 numbers, whose mean is zero, about 90 intervals of 90 % should hold it."""
    held = 0
    for seed in range(100):
        numbers = torch.randn(50, generator=torch.Generator().manual_seed(seed))
        low, high = evaluation.bootstrap_interval(lambda x: x.mean().item(), numbers, level=0.9, seed=seed)
        held += low <= 0 <= high
    assert 80 <= held <= 97
    counted = iter(range(201))
    ends = evaluation.bootstrap_interval(lambda x: next(counted), numbers, draws=201, level=0.9)
    assert ends == pytest.approx((10, 190))
    both = evaluation.bootstrap_interval(lambda a, b: (a.mean() - b.mean()).item(), numbers, numbers + 3)
    assert both[0] < -3 < both[1] and both[1] - both[0] < 1.5


def test_precision_and_recall_of_equal_sets_are_one():
    points = gaussian(200, [0, 0], [1, 1], 0)
    assert evaluation.precision_recall(points, points) == (1.0, 1.0)


def test_a_collapsed_generator_has_precision_but_no_recall():
    real = torch.cat([gaussian(100, [0, 0], [1, 1], 0), gaussian(100, [50, 0], [1, 1], 1)])
    fake = gaussian(200, [0, 0], [0.01, 0.01], 2)
    precision, recall = evaluation.precision_recall(real, fake)
    assert precision == 1.0
    assert recall < 0.05


def test_a_generator_that_errs_half_the_time_has_half_the_precision():
    real = gaussian(200, [0, 0], [1, 1], 0)
    fake = torch.cat([real[:100], real[100:] + 1000])
    precision, recall = evaluation.precision_recall(real, fake)
    assert precision == 0.5
    assert 0.5 <= recall < 1.0


def test_precision_by_hand():
    # On a line, k = 1: balls of radius 1 around 0, 1, and of radius 9 around 10.
    real, fake = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[-1.5], [2.0], [18.0], [19.5]])
    assert evaluation.precision_recall(real, fake, k=1)[0] == 0.5


def test_too_few_points_for_precision_are_refused():
    with pytest.raises(ValueError, match=r"need more than k = 3 points; got 3 and 10"):
        evaluation.precision_recall(torch.zeros(3, 2), torch.zeros(10, 2))


def test_codebook_usage_by_hand():
    first, second = evaluation.codebook_usage([torch.tensor([[3], [3]]), torch.tensor([[0, 1], [2, 2]])], 8)
    assert first == {"used": 1 / 8, "perplexity": pytest.approx(1.0)}
    entropy = -(0.25 * math.log(0.25) * 2 + 0.5 * math.log(0.5))
    assert second == {"used": 3 / 8, "perplexity": pytest.approx(math.exp(entropy))}


def test_perplexity_of_evenly_used_codes_is_their_number():
    (usage,) = evaluation.codebook_usage([torch.arange(64).view(4, 16)], 64)
    assert usage == {"used": 1.0, "perplexity": pytest.approx(64)}


def test_share_of_the_codebook_in_a_queue_forgets_what_is_older():
    tokens = torch.cat([torch.zeros(10), torch.arange(1, 5).repeat(2)]).long()
    assert evaluation.share_in_queue(tokens, 10) == 0.5
    assert evaluation.share_in_queue(tokens.view(9, 2), 10, queue=8) == 0.4


def test_psnr_by_hand():
    black = torch.zeros(2, 3, 12, 12)
    other = torch.stack([torch.full((3, 12, 12), 0.1), torch.ones(3, 12, 12)])
    assert evaluation.psnr(black, other).tolist() == pytest.approx([20.0, 0.0])
    assert evaluation.psnr(black, black).isinf().all()


def ssim_of_windows(a: np.ndarray, b: np.ndarray) -> float:
    """Of two channels (H, W), window by window."""
    steps = np.arange(-5, 6)
    weights = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
            var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
            both = (weights * (x - mean_x) * (y - mean_y)).sum()
            brightness = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
            found.append(brightness * (2 * both + 9e-4) / (var_x + var_y + 9e-4))
    return float(np.mean(found))


def test_ssim_is_that_of_its_windows_one_by_one():
    a, b = torch.rand(2, 2, 2, 13, 15, generator=torch.Generator().manual_seed(0))
    found = evaluation.ssim(a, b)
    pairs = zip(a.double().numpy(), b.double().numpy())
    wanted = [np.mean([ssim_of_windows(x, y) for x, y in zip(*pair)]) for pair in pairs]
    assert found.tolist() == pytest.approx(wanted, rel=1e-9)
    assert evaluation.ssim(a, a).tolist() == pytest.approx([1, 1])
    assert (evaluation.ssim(a, (a + 0.05 * b).clamp(0, 1)) > found).all()


# The library that others use ----------------------------------------------------------------------------------------


class Given(torch.nn.Module):
    """A feature extractor for the library that hands on what it is given."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_set_scores_agree_with_torchmetrics_on_the_same_features():
    real, fake = (torch.randn(400, 12, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    fake = fake * torch.linspace(0.5, 1.5, 12) + 0.3
    library = FrechetInceptionDistance(Given(12), normalize=True, input_img_size=(1, 1, 12)).set_dtype(torch.float64)
    library.update(real, real=True)
    library.update(fake, real=False)
    assert evaluation.frechet_distance(fake, real) == pytest.approx(library.compute().item(), rel=1e-3)
    library = InceptionScore(Given(12), splits=4)
    library.update(fake.float())
    torch.manual_seed(0)
    wanted = library.compute()
    torch.manual_seed(0)  # the library shuffles, ours takes the order as it is
    found = evaluation.inception_score(fake[torch.randperm(400)].softmax(1), 4)
    assert found[0] == pytest.approx(wanted[0].item(), rel=1e-3)
    assert found[1] * math.sqrt(4 / 3) == pytest.approx(wanted[1].item(), rel=1e-3)  # which divides by one part less


def test_picture_scores_agree_with_torchmetrics():
    a, b = torch.rand(2, 4, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    b = (a + 0.3 * (b - 0.5)).clamp(0, 1)
    _, everywhere = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    within = everywhere[..., 5:-5, 5:-5].mean(
        (1, 2, 3)
    )  # the library mirrors the image at its borders; we stop there
    assert torch.allclose(evaluation.ssim(a, b).float(), within, rtol=1e-3)
    decibels = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert torch.allclose(evaluation.psnr(a, b).float(), decibels, rtol=1e-3)


def test_pictures_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="of one shape; got .*12, 12.* and .*12, 13"):
        evaluation.psnr(torch.zeros(1, 3, 12, 12), torch.zeros(1, 3, 12, 13))
    with pytest.raises(ValueError, match=r"windows of 11 x 11 pixels; got images of \(10, 12\)"):
        evaluation.ssim(torch.zeros(1, 3, 10, 12), torch.zeros(1, 3, 10, 12))


# Digits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    return evaluation.load_digit_classifier()


def test_the_shipped_classifier_knows_985_of_1000_heldout_digits(classifier):
    model, header = classifier
    images, labels = data.load("digits", "heldout").batch(slice(None))
    accuracy = (evaluation.in_batches(model, images).argmax(1) == labels).float().mean().item()
    assert accuracy >= 0.985
    assert accuracy == pytest.approx(header["heldout_accuracy"], abs=1e-3)


def test_the_classifier_refuses_images_of_another_shape(classifier):
    for shape in ((2, 3, 28, 28), (2, 1, 32, 32), (1, 28, 28)):
        with pytest.raises(ValueError, match=r"The classifier expects images \(B, 1, 28, 28\); got \("):
            classifier[0](torch.zeros(shape))


def test_judging_real_digits_finds_them_real(classifier):
    images, labels = data.load("digits", "train").batch(slice(0, 500))
    scores = evaluation.judge_digits(classifier[0], (images + 1) / 2, labels)
    assert scores["count"] == 500
    assert scores["accuracy"] > 0.98
    assert 0.5 < scores["frechet_ratio"] < 2
    assert abs(scores["recall"] - scores["recall_real"]) < 0.1
    assert scores["novelty"] < 0.01  # they are training digits


def share_inside(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> float:
    """Share of points that lie in the ball around some point of the manifold up to its k-th neighbour, in loops."""
    radii = [np.sort(np.linalg.norm(manifold - centre, axis=1))[k] for centre in manifold]  # at 0 lies the centre
    inside = [
        any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(manifold, radii)) for point in points
    ]
    return sum(inside) / len(inside)


def test_every_score_of_a_judgement_is_what_its_description_says(classifier):
    """Precision, recall and novelty a second time, of 80 blurred digits, in float64 and by other code."""
    images, labels = data.load("digits", "train").batch(slice(0, 80))
    images = (F.avg_pool2d(images, 3, 1, 1) + 1) / 2
    scores = evaluation.judge_digits(classifier[0], images, labels)
    pick = torch.Generator().manual_seed(0)
    train, heldout = (data.load("digits", split) for split in ("train+validation", "heldout"))
    chosen = [each.batch(torch.randperm(len(each), generator=pick)[:80])[0] for each in (train, heldout)]
    with torch.no_grad():
        train_80, heldout_80, fake = (classifier[0].features(x).double().numpy() for x in (*chosen, images * 2 - 1))
        accuracy = (classifier[0](images * 2 - 1).argmax(1) == labels).double().mean().item()
    # one of 80 points may lie on a sphere's surface as exactly as float32 can tell
    assert scores["precision"] == pytest.approx(share_inside(fake, heldout_80), abs=0.02)
    assert scores["recall"] == pytest.approx(share_inside(heldout_80, fake), abs=0.02)
    assert scores["recall_real"] == pytest.approx(share_inside(heldout_80, train_80), abs=0.02)
    assert 0.3 < scores["recall_real"] < 0.95  # few digits do not cover everything
    assert scores["recall"] < scores["recall_real"] - 0.1  # nor do blurred ones
    assert scores["accuracy"] == pytest.approx(accuracy, rel=1e-6)
    for name, features in (("frechet", fake), ("frechet_real", train_80)):
        expected = evaluation.frechet_distance(torch.from_numpy(features), torch.from_numpy(heldout_80))
        assert scores[name] == pytest.approx(expected, rel=1e-3)
    assert scores["frechet_ratio"] == pytest.approx(scores["frechet"] / scores["frechet_real"])
    pixels = (
        train.images.flatten(1).double() / 127.5
    )  # and of every tenth held-out digit, whose median is near that of all
    nearest = [
        torch.cdist(points.flatten(1).double(), pixels - 1).amin(1).median()
        for points in (images * 2 - 1, heldout.batch(slice(None, None, 10))[0])
    ]
    assert scores["novelty"] == pytest.approx((nearest[0] / nearest[1]).item(), rel=0.05)


def test_judging_sees_wrong_labels_noise_and_a_single_digit(classifier):
    images, labels = data.load("digits", "train").batch(slice(0, 500))
    images = (images + 1) / 2
    assert evaluation.judge_digits(classifier[0], images, (labels + 1) % 10)["accuracy"] < 0.02
    noise = evaluation.judge_digits(classifier[0], torch.rand(500, 1, 28, 28), labels)
    assert noise["frechet_ratio"] > 20
    ones = evaluation.judge_digits(classifier[0], images[labels == 1][:1].expand(500, -1, -1, -1), labels)
    assert ones["recall"] < 0.05
