"""The book in six panels, at the top of the README, and the pictures beside it."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from experiments import build_figures
from minivar import data, sampling
from minivar.analysis import complexity
from minivar.book import plots
from minivar.scales import ScaleSchedule

ROOT = Path(__file__).resolve().parent.parent
FIGURES = data.DATA_ROOT / "figures"


def made_up(schedule: ScaleSchedule) -> plots.Story:
    draw = torch.Generator().manual_seed(0)
    some = [torch.rand(3, 1, 8, 8, generator=draw) for _ in range(schedule.num_scales + 1)]
    return plots.Story(
        image=some[0][0],
        grid=torch.arange(16).view(4, 4),
        codebook_size=64,
        rows=dict(zip((1, 2, 4), some, strict=False)),
        scales=some[1:],
        schedule=schedule,
        pyramid=[torch.arange(count) + 20 * k for k, count in enumerate(schedule.counts)],
        sums=[images[1] for images in some],
        given=some[0],
        keep=[data.box_mask((8, 8), 0, 0, 4, 8)] * 3,
        filled=some[:2],
    )


def pictures(ax) -> list[np.ndarray]:
    return [np.asarray(shown.get_array()) for shown in ax.images]


def test_six_panels_show_what_they_are_given():
    schedule = ScaleSchedule((1, 2, 4))
    story = made_up(schedule)
    figure = plots.arc(story)
    coded, raster, cost, pyramid, scales, holes = figure.axes
    titles = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "Raster order: 16 steps" in titles and "Next-scale order: 3 steps" in titles
    assert {text.get_text() for text in coded.texts} >= {str(token) for token in range(16)}
    assert {text.get_text() for text in pyramid.texts} >= {"0", "20", "21", "22", "23"}

    (finest,) = [shown for shown in pictures(pyramid) if shown.shape == (4, 4)]
    assert np.array_equal(finest, story.pyramid[2].view(4, 4))
    assert np.allclose(pictures(pyramid)[-1][..., 0], story.sums[-1][0])
    assert np.allclose(pictures(scales)[-1][..., 0], story.scales[-1][2, 0])
    assert len(pictures(scales)) == 9 and len(pictures(raster)) == 9 and len(pictures(holes)) == 12
    unfinished = pictures(raster)[0]  # after one row of four
    assert np.allclose(unfinished[:2, :, 0], story.rows[1][0, 0, :2])
    assert not np.allclose(unfinished[2:, :, 0], story.rows[1][0, 0, 2:])

    assert len(cost.lines) == 3
    plt.close(figure)


def test_the_lines_of_the_cost_have_the_slopes_that_are_written_on_them():
    figure = plots.arc(made_up(ScaleSchedule((1, 2, 4))))
    ax = figure.axes[2]
    words = [text.get_text() for text in ax.texts if re.search(r": n[⁴⁶]$", text.get_text())]
    for line, name in zip(ax.lines, words, strict=True):
        sides, pairs = line.get_data()
        assert np.log2(pairs[-1] / pairs[-2]) == pytest.approx({"⁶": 6, "⁴": 4}[name[-1]], abs=0.02)
        assert list(sides) == [4, 8, 16, 32, 64]
    steps = complexity.raster_steps(16**2, cache=False)
    assert ax.lines[0].get_ydata()[2] == sum(step.queries * step.keys for step in steps)
    plt.close(figure)


@pytest.fixture(scope="module")
def story():
    return build_figures.story()


def test_the_shipped_models_tell_the_story(story):
    assert story.grid.shape == (7, 7) and story.schedule.grids[-1] == (7, 7)
    assert (story.sums[-1] - story.image).abs().mean() < 0.05 < (story.sums[1] - story.image).abs().mean()
    checkpoint = data.DATA_ROOT / "checkpoints" / "duel-var"
    tokenizer, model, _ = build_figures.checkpoints.load_pair(checkpoint)
    drawn = sampling.sample(model, tokenizer, torch.arange(10), cfg=0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(story.scales[-1], drawn.images[[5, 7, 9]])
    for images in story.filled:
        for given, filled, keep in zip(story.given, images, story.keep, strict=True):
            assert torch.equal(given[:, keep], filled[:, keep]) and not torch.equal(given, filled)


def test_the_picture_on_disk_is_the_one_that_is_drawn(story, tmp_path):
    figure = plots.arc(story)
    figure.savefig(tmp_path / "arc.png", dpi=200)
    plt.close(figure)
    small = []
    for path in (tmp_path / "arc.png", FIGURES / "arc.png"):
        with Image.open(path) as picture:
            assert picture.width == 2 * 831
            small.append(np.asarray(picture.convert("RGB").resize((166, 104)), dtype=float))
    assert np.abs(small[0] - small[1]).mean() < 2  # of 255; another version of matplotlib may set letters otherwise


def test_the_readmes_pictures_are_there_small_and_told_in_words():
    shown = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    names = {path for _, path in shown}
    assert {"data/figures/arc.png", "data/figures/system.png", "data/figures/scale_by_scale.png"} <= names
    for words, path in shown:
        assert (ROOT / path).stat().st_size < 400_000, path
        assert len(words.split()) >= 6, path


def test_the_readmes_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)", text):
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        assert path or anchor in anchors, target
