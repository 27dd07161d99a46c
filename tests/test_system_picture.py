"""The picture of the system: every part can be lit, and nothing else."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex

from minivar.book import plots
from minivar.book.plots.system import LIT, PARTS


def lit_boxes(figure) -> int:
    return sum(to_hex(patch.get_facecolor()) == LIT.lower() for patch in figure.axes[0].patches)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_lit(part):
    figure = plots.system((part,), "title")
    assert lit_boxes(figure) == 1 and figure.axes[0].get_title() == "title"
    plt.close(figure)


def test_nothing_is_lit_unasked_and_the_simple_picture_has_no_formulas():
    figure = plots.system()
    assert lit_boxes(figure) == 0
    assert any("hat f" in text.get_text() for text in figure.axes[0].texts)
    simple = plots.system(simple=True)
    assert not any("hat f" in text.get_text() for text in simple.axes[0].texts)
    plt.close("all")


def test_in_raster_order_there_is_one_grid_and_nothing_is_added_up():
    figure = plots.system(("tokens",), raster=True)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert lit_boxes(figure) == 1 and not any("hat f" in text or "scale" in text for text in texts)
    assert "back: input of the next token" in texts and "tokens $x_1, x_2, \\ldots, x_N$" in texts
    plt.close("all")


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="Unknown part 'decode': expected one of image, encoder"):
        plots.system(("decode",))


def test_the_blocks_six_vectors_act_where_they_should():
    texts = [(text.get_text(), text.get_position()) for text in plots.adaln_block("title").axes[0].texts]
    where = {text: place for text, place in texts if text.startswith("$")}
    for k in (1, 2):
        norm, gate = (next(x for text, (x, _) in texts if f"{sign}_{k}" in text) for sign in ("(1 + s", "gamma"))
        assert norm < gate and abs(where[rf"$\gamma_{k}$"][0] - gate) < 0.1
        assert all(abs(where[f"${name}_{k}$"][0] - norm) < 0.3 for name in "sb")
    plt.close("all")


def test_llamas_block_turns_queries_and_keys_before_they_attend():
    texts = {text.get_text(): text.get_position()[0] for text in plots.llama_block("title").axes[0].texts}
    turn, attention = (next(x for text, x in texts.items() if word in text) for word in ("turn", "attention"))
    assert turn < attention < texts["SwiGLU"]
    plt.close("all")
