"""The explorers without a front end: a value that is set changes the data, and the picture is there for everyone."""

import base64
import io
import itertools

import ipywidgets
import pytest
import torch
from conftest import tokenizer_config, wake
from PIL import Image
from servers import PAIRS

from minivar import sampling
from minivar.book import explorers, plots
from minivar.book.plots.cost import order_costs
from minivar.models import DiT, DiTConfig
from minivar.tokenizer import VQVAE

TOKENIZER, MODEL = PAIRS["scales"]
SINGLE, GPT = PAIRS["rows"]
IMAGES = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def pyramid():
    return explorers.Pyramid(TOKENIZER, IMAGES[:1], SINGLE)


@pytest.fixture
def editing():
    return explorers.Editing(MODEL, TOKENIZER, IMAGES[:1], samples=2, side=8, cfg=1.0)


def test_a_token_that_is_changed_changes_the_picture(pyramid):
    tokens = TOKENIZER.encode(IMAGES[:1])
    assert torch.equal(pyramid.pictures["pyramid"], plots.to_unit(TOKENIZER.decode(tokens)))
    was = int(tokens[1][0, 3])
    pyramid.click("scale 2", 2, 2)
    assert pyramid.values["code"] == was and not pyramid.moved["pyramid"].any()
    pyramid.set(code=(was + 5) % 16)
    tokens[1][0, 3] = (was + 5) % 16
    assert torch.equal(pyramid.pictures["pyramid"], plots.to_unit(TOKENIZER.decode(tokens)))
    assert pyramid.moved["pyramid"].any() and not pyramid.moved["raster"].any()


def test_changes_add_up_until_all_is_restored(pyramid):
    first = {name: tokens.clone() for name, tokens in pyramid.tokens.items()}
    pyramid.set(map="scale 3", row=4, column=1, code=3).set(map="raster", row=2, column=3, code=7)
    assert pyramid.tokens["scale 3"][0, 12] == 3 and pyramid.tokens["raster"][0, 6] == 7
    assert "raster is chosen" in pyramid.describe()
    pyramid.restore()
    assert all(torch.equal(pyramid.tokens[name], first[name]) for name in first)
    assert not pyramid.moved["pyramid"].any() and not pyramid.moved["raster"].any()
    assert pyramid.values["code"] == int(first["raster"][0, 6])


def test_a_coarse_map_has_fewer_rows_than_the_slider(pyramid):
    pyramid.set(map="scale 3", row=4, column=4)
    pyramid.set(map="scale 2")
    assert pyramid.place == ("scale 2", 2, 2) and pyramid.values["row"] == 2


def without_figures(explorer, monkeypatch):
    """The box of an explorer that counts its figures in place of drawing them, which takes a second each."""
    count = itertools.count()
    monkeypatch.setattr(explorer, "png", lambda: bytes([next(count)]))
    return explorer.box()


def test_clicking_a_button_of_the_board_chooses_its_token(pyramid, monkeypatch):
    without_figures(pyramid, monkeypatch)
    before = pyramid.screen.value
    pyramid.buttons["scale 3"][6].click()
    assert pyramid.place == ("scale 3", 2, 3)
    assert pyramid.buttons["scale 3"][6].description == str(int(pyramid.tokens["scale 3"][0, 6]))
    assert pyramid.buttons["scale 3"][6].style.button_color == plots.COLOURS[1]
    pyramid.controls["code"].value = (pyramid.values["code"] + 1) % 16
    assert pyramid.screen.value != before
    assert pyramid.buttons["scale 3"][6].description == str(pyramid.values["code"])


def test_what_is_drawn_is_the_samplers_own_picture():
    explorer = explorers.Sampling(MODEL, TOKENIZER, label=2, seed=3, cfg=2.0)
    start = explorer.values
    pictures = explorer.pictures
    for changed in ({}, {"cfg": 0.0}, {"top_k": 2}, {"top_p": 0.1}, {"seed": 4}, {"label": 1}, {"smooth": True}):
        values = explorer.set(**{**start, **changed}).values
        settings = {name: values[name] for name in ("cfg", "top_k", "top_p", "smooth")}
        generator = torch.Generator().manual_seed(values["seed"])
        drawn = sampling.sample(MODEL, TOKENIZER, torch.tensor([values["label"]]), generator=generator, **settings)
        assert torch.equal(explorer.tokens, drawn.tokens)
        assert torch.allclose(explorer.pictures[-1:], drawn.images, atol=1e-4)
        assert torch.equal(explorer.pictures, pictures) != bool(changed)


def test_guidance_moves_one_distribution_and_leaves_its_context_alone():
    explorer = explorers.Sampling(MODEL, TOKENIZER, cfg=0.0)
    assert torch.allclose(explorer.guided, explorer.free)
    free, effective = explorer.free, explorer.effective
    explorer.set(cfg=4.0)
    assert torch.equal(explorer.free, free) and explorer.strength == 4.0
    with_class, null = explorer.logits_2LV[:, 5 + 1 * 4 + 1].double()  # the second row and column of 4 x 4
    assert torch.allclose(explorer.guided.double(), (5 * with_class - 4 * null).softmax(-1), atol=1e-5)
    assert explorer.effective != effective
    explorer.set(scale=1)  # where the ramp begins
    assert explorer.strength == 0 and torch.allclose(explorer.guided, explorer.free)
    explorer.set(scale=3, top_k=3)
    assert int((explorer.guided > 0).sum()) == 3


def test_attention_is_the_models_and_sees_nothing_finer():
    labels = torch.tensor([0, 1, 2])
    explorer = explorers.Attention(MODEL, TOKENIZER, IMAGES, labels)
    record = []
    with torch.no_grad():
        MODEL(labels, TOKENIZER.teacher_inputs(TOKENIZER.encode(IMAGES)), record=record)
    explorer.set(block=1, head=2, scale=2, row=2, column=1)
    expected = record[0].mean(0)[1, 1 + 2]
    assert torch.allclose(torch.cat([part.flatten() for part in explorer.weights]), expected)
    assert explorer.shares[2] == 0 and torch.isclose(explorer.shares.sum(), torch.tensor(1.0))
    explorer.set(scale=3, head=0)
    assert explorer.shares[2] > 0 and explorer.cell == (2, 1)
    assert "mean of the heads" in explorer.describe()


def test_a_hole_that_is_drawn_is_filled_and_the_rest_stays_bit_for_bit(editing):
    given = plots.to_unit(IMAGES[:1]).expand(2, -1, -1, -1)
    assert torch.equal(editing.pictures, given) and editing.keep.all()
    editing.toggle(3, 2)
    editing.toggle(3, 3)
    assert (~editing.keep).nonzero().amin(0).tolist() == [4, 2] and int((~editing.keep).sum()) == 8
    assert torch.equal(editing.pictures[..., editing.keep], given[..., editing.keep])
    assert not torch.equal(editing.pictures[0], editing.pictures[1])
    for changed in ({"seed": 5}, {"label": 3}, {"cfg": 4.0}):
        before = editing.pictures.clone()
        assert not torch.equal(editing.set(**changed).pictures, before)
    editing.toggle(3, 2)
    assert int((~editing.keep).sum()) == 4
    editing.clear()
    assert torch.equal(editing.pictures, given)


def test_a_stroke_marks_what_it_touches_and_buttons_what_is_clicked(editing, monkeypatch):
    without_figures(editing, monkeypatch)
    editing.stroke([(0, 0), (0, 15)], radius=1)
    assert editing.hole[0].all() and not editing.hole[1:].any()
    editing.buttons[8 * 7 + 4].click()
    assert editing.hole[7, 4] and editing.buttons[8 * 7 + 4].style.button_color == plots.COLOURS[1]
    editing.stroke([(0, 8), (15, 8)], radius=20)
    assert editing.hole.all() and torch.equal(editing.pictures[:1], plots.to_unit(IMAGES[:1]))
    assert len({button.style for button in editing.buttons}) == 1  # they share it


def test_editing_is_for_raster_models_too():
    explorer = explorers.Editing(GPT, SINGLE, IMAGES[:1], samples=1, side=4)
    assert explorer.values["cfg"] == 1.0
    explorer.toggle(4, 4)
    assert not torch.equal(explorer.pictures, plots.to_unit(IMAGES[:1]))


def test_cost_is_that_of_the_side():
    explorer = explorers.Cost(sides=(2, 4))
    assert explorer.values["n"] == 4 and explorer.costs["raster"] == order_costs("raster", 4)
    assert explorer.saved == explorer.costs["raster"]["pairs"] / explorer.costs["next-scale"]["pairs"] > 1
    assert "16 steps in raster order and 3 by scales" in explorer.describe()
    assert explorer.set(n=2).costs["raster"]["steps"] == 4


@pytest.mark.parametrize("kind", ["pyramid", "sampling", "attention", "editing", "cost"])
def test_one_output_holds_the_controls_and_a_static_figure(kind):
    explorer = {
        "pyramid": lambda: explorers.Pyramid(TOKENIZER, IMAGES[:1]),
        "sampling": lambda: explorers.Sampling(MODEL, TOKENIZER),
        "attention": lambda: explorers.Attention(MODEL, TOKENIZER, IMAGES[:1], torch.tensor([0])),
        "editing": lambda: explorers.Editing(MODEL, TOKENIZER, IMAGES[:1], side=4),
        "cost": lambda: explorers.Cost(sides=(2, 4)),
    }[kind]()
    data, metadata = explorer._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.box().model_id
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.format == "PNG" and picture.width < 1000
    assert data["text/plain"] == metadata["image/png"]["alt"] == explorer.describe()
    assert explorer.describe().startswith(f"Explorer of {'a pyramid' if kind == 'pyramid' else kind}")
    names = [control.description for control in explorer.box().children[0].children]
    assert names == list(explorer.values) and isinstance(explorer.screen, ipywidgets.Image)


def test_what_cannot_be_set_is_refused_in_words_and_changes_nothing():
    explorer = explorers.Sampling(MODEL, TOKENIZER)
    before = explorer.values
    for wrong, words in (
        ({"temperature": 1.0}, "'temperature' cannot be set: expected label, seed, cfg"),
        ({"seed": 5, "cfg": 100.0}, "cfg cannot be 100.0: expected a number from 0 to 8"),
        ({"label": 5}, "label cannot be 5: expected one of 0, 1, 2, 3, 4"),
        ({"top_k": "many"}, "top_k cannot be 'many': expected a number from 0 to 16"),
        ({"smooth": "very"}, "smooth cannot be 'very': expected True or False"),
    ):
        with pytest.raises(ValueError, match=words):
            explorer.set(**wrong)
        assert explorer.values == before
    with pytest.raises(ValueError, match=r"one image of shape \(1, 1, 16, 16\); got \(3, 1, 16, 16\)"):
        explorers.Pyramid(TOKENIZER, IMAGES)
    with pytest.raises(ValueError, match="several scales and, beside it, one with a single grid"):
        explorers.Pyramid(TOKENIZER, IMAGES[:1], TOKENIZER)
    with pytest.raises(ValueError, match="A board of buttons has 1 to 16 a side"):
        explorers.Editing(MODEL, TOKENIZER, IMAGES[:1], side=17)
    with pytest.raises(ValueError, match=r"rows and columns 1 to 4; got \(0, 1\)"):
        explorers.Editing(MODEL, TOKENIZER, IMAGES[:1], side=4).toggle(0, 1)


def test_models_that_draw_no_tokens_cannot_edit():
    dit = DiT(DiTConfig(depth=1, width=16, heads=2, input_size=4, channels=4, num_classes=5))
    with pytest.raises(ValueError, match="expected VAR, GPT or MaskGIT; got a DiT"):
        explorers.Editing(dit, wake(VQVAE(tokenizer_config())), IMAGES[:1])
