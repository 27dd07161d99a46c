"""The sampling loop as a comic strip, and a reference line that its panel has room for."""

import matplotlib.pyplot as plt
import torch

from minivar.book import plots
from minivar.book.plots.tokens import first_component
from minivar.scales import ScaleSchedule


def test_the_strip_has_a_column_a_scale_and_shows_the_tokens_that_were_drawn():
    schedule, draw = ScaleSchedule((1, 2, 3)), torch.Generator().manual_seed(0)
    seen = [torch.randn(5, *grid, generator=draw) for grid in schedule.grids[1:]]
    tokens = [torch.arange(count) + 100 * k for k, count in enumerate(schedule.counts)]
    images = torch.rand(4, 1, 8, 8, generator=draw)
    figure = plots.sampling_strip(seen, tokens, images, schedule, 512, "title")
    columns = [figure.axes[k::3] for k in range(3)]
    for k, (_, draws, adds, so_far) in enumerate(columns):
        assert [int(text.get_text()) for text in draws.texts] == tokens[k].tolist()
        assert torch.allclose(torch.as_tensor(adds.images[0].get_array()), (images[k + 1] - images[k])[0])
        assert torch.allclose(torch.as_tensor(so_far.images[0].get_array()), images[k + 1, 0])
    plt.close(figure)


def test_the_first_component_has_one_sign_and_most_of_the_variance():
    line = torch.tensor([3.0, -4.0]) * torch.arange(4.0)[:, None]
    (values,) = first_component([line.T.reshape(2, 2, 2)])
    assert torch.allclose(values.flatten(), torch.tensor([7.5, 2.5, -2.5, -7.5]), atol=1e-5)


def test_a_reference_lies_inside_its_panel():
    figure = plots.line_panels([("", [1, 2], {"a": [1.0, 2.0]}, "x", "y")], "title", ("far above", 9.0))
    assert figure.axes[0].get_ylim()[1] > 9.0
    plt.close(figure)
