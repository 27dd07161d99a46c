"""data/emoji/ is what its card says it is, its splits keep apart what they should, and data.load gives them out."""

import argparse
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from minivar import data, presets
from minivar.cli.tokenize import images_to_tokenize
from minivar.data import DataError
from minivar.data.emoji_world import FOLDER, read_style, shrunk
from minivar.tokenizer import VQVAE

CARD = (FOLDER.parent / "EMOJI_WORLD.md").read_text(encoding="utf-8")
LISTING = json.loads((FOLDER / "things.json").read_text(encoding="utf-8"))
STYLES = tuple(LISTING["styles"])
TRAIN, VALIDATION, HELDOUT, VALIDATION_PAIRS, HELDOUT_PAIRS = LISTING["parts"]


@pytest.fixture(scope="module")
def world():
    return {part: data.load("emoji-32", part) for part in LISTING["parts"]}


def base_and_style(part):
    """(base, style) of every image of a split."""
    bases = [thing["base"] for thing in LISTING["things"]]
    things, styles = (part.extra[key].values.tolist() for key in ("thing", "style"))
    return {(bases[thing], STYLES[style]) for thing, style in zip(things, styles)}


# The files ----------------------------------------------------------------------------------------------------------


def test_content_is_what_the_card_says():
    digests = dict(re.findall(r"\| `([\w.-]+)` \|.*?\| `([0-9a-f]{64})` \|", CARD))
    assert set(digests) == {"things.json", *(f"{style}.npy.xz" for style in STYLES)}
    for style in STYLES:
        images = read_style(style)
        assert images.dtype == np.uint8 and images.shape[1:] == (64, 64, 3)
        assert len(images) == len(LISTING["styles"][style]["things"]) == len(LISTING["styles"][style]["parts"])
        assert hashlib.sha256(images.tobytes()).hexdigest() == digests[f"{style}.npy.xz"]
        assert set(np.unique(images)) <= {*range(0, 253, 4), 255}
        assert (images.reshape(len(images), -1).min(1) < 255).all()  # none is blank
        assert len({image.tobytes() for image in images}) == len(images)  # or there twice
    assert hashlib.sha256((FOLDER / "things.json").read_bytes()).hexdigest() == digests["things.json"]


def test_all_of_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 13e6


def test_things_are_named_once_and_drawn():
    things = LISTING["things"]
    assert len({thing["id"] for thing in things}) == len({thing["name"] for thing in things}) == len(things)
    drawn = {number for style in STYLES for number in LISTING["styles"][style]["things"]}
    assert drawn == set(range(len(things)))
    for style in STYLES:
        numbers = LISTING["styles"][style]["things"]
        assert numbers == sorted(set(numbers))
    assert all(thing["keywords"] and thing["name"] for thing in things)
    assert not any(code in thing["id"].split("-") for thing in things for code in ("1F3FB", "1F3FF", "FE0F"))


def test_one_thing_has_one_number_in_all_styles():
    """A red apple is mostly red, in every style that has one; the French flag is blue left and red right."""
    number = {thing["name"]: i for i, thing in enumerate(LISTING["things"])}
    for style in STYLES:
        drawn = dict(zip(LISTING["styles"][style]["things"], read_style(style).astype(int)))
        if number["red apple"] in drawn:
            red, green, blue = drawn[number["red apple"]].mean((0, 1))
            assert red > green + 5 and red > blue + 5, style
        if number["flag: France"] in drawn:
            flag = drawn[number["flag: France"]][28:36]
            assert flag[:, 8:16, 2].mean() > flag[:, 8:16, 0].mean() + 40, style
            assert flag[:, 48:56, 0].mean() > flag[:, 48:56, 2].mean() + 40, style


# The splits ---------------------------------------------------------------------------------------------------------


def test_held_out_things_are_in_no_style_in_training(world):
    learned = {base for base, _ in base_and_style(world[TRAIN])}
    for part in (VALIDATION, HELDOUT):
        own = {base for base, _ in base_and_style(world[part])}
        assert own and not own & learned
        others = [base_and_style(world[other]) for other in world if other != part]
        assert not own & {base for pairs in others for base, _ in pairs}


def test_held_out_pairs_were_both_seen_but_not_together(world):
    learned = base_and_style(world[TRAIN])
    styles_of = defaultdict(set)
    for base, style in learned:
        styles_of[base].add(style)
    for part in (VALIDATION_PAIRS, HELDOUT_PAIRS):
        own = base_and_style(world[part])
        assert own and not own & learned
        assert all(len(styles_of[base]) >= 2 for base, _ in own)
        assert {style for _, style in own} == set(STYLES)
    assert not base_and_style(world[VALIDATION_PAIRS]) & base_and_style(world[HELDOUT_PAIRS])


def test_splits_are_all_of_it_and_of_the_stated_size(world):
    total = sum(map(len, world.values()))
    assert total == sum(len(LISTING["styles"][style]["things"]) for style in STYLES)
    shares = {part: len(images) / total for part, images in world.items()}
    assert 0.08 < shares[HELDOUT] < 0.12 and 0.08 < shares[VALIDATION] < 0.12
    assert 0.03 < shares[HELDOUT_PAIRS] < 0.06 and 0.03 < shares[VALIDATION_PAIRS] < 0.06
    counts = {
        part: int(number.replace(",", "")) for part, number in re.findall(r"\| `([\w-]+)` \| ([\d,]+) \|", CARD)
    }
    assert counts == {part: len(images) for part, images in world.items()}
    assert set(world[TRAIN].labels.tolist()) == set(range(9))


# Loading ------------------------------------------------------------------------------------------------------------


def test_labels_agree_with_one_another(world):
    part = world[VALIDATION]
    assert part.image_shape == (3, 32, 32) and part.background == 1.0
    assert part.class_names == tuple(LISTING["groups"])
    for i in range(0, len(part), 97):
        thing = LISTING["things"][part.extra["thing"].values[i]]
        named = {key: labels.names[labels.values[i]] for key, labels in part.extra.items()}
        assert named["thing"] == thing["id"] and named["name"] == thing["name"]
        assert named["subgroup"] == thing["subgroup"] and int(part.labels[i]) == thing["group"]


def test_both_sizes_are_the_same_pictures():
    large, small = (data.load(name, "heldout-pairs", styles=["fxemoji"]) for name in ("emoji-64", "emoji-32"))
    assert large.image_shape == (3, 64, 64) and len(large) == len(small)
    blocks = large.images.unflatten(2, (32, 2)).unflatten(4, (32, 2)).float().mean((3, 5))
    assert (blocks - small.images.float()).abs().max() <= 0.5
    assert torch.equal(large.extra["thing"].values, small.extra["thing"].values)
    with pytest.raises(DataError, match="64 or 32 pixels wide; got size 16"):
        shrunk(np.zeros((1, 64, 64, 3), np.uint8), 16)


def test_styles_can_be_left_out_and_splits_joined(world):
    free = [style for style in STYLES if style != "openmoji"]
    some = data.load("emoji-32", "validation", styles=free)
    assert "openmoji" not in {some.extra["style"].names[i] for i in some.extra["style"].values.tolist()}
    assert some.extra["style"].names == STYLES  # numbered as ever
    both = data.load("emoji-32", "validation+heldout")
    assert len(both) == len(world[VALIDATION]) + len(world[HELDOUT])
    assert len(both.extra["style"].values) == len(both)


@pytest.mark.parametrize(
    "split, options, sentence",
    [
        ("test", {}, "Unknown split test of emoji: expected train, validation, heldout, validation-pairs"),
        ("train", {"styles": ["apple"]}, "Unknown style apple of emoji: expected noto, twemoji"),
        ("train", {"styles": []}, "Unknown style none of emoji"),
        ("train", {"crop": "center"}, "'emoji-64' takes the option styles; got crop"),
    ],
)
def test_what_is_not_there_is_named(split, options, sentence):
    with pytest.raises(DataError, match=sentence):
        data.load("emoji-64", split, **options)


def test_the_folder_may_be_missing(monkeypatch, tmp_path):
    data.emoji_listing.cache_clear()
    monkeypatch.setattr("minivar.data.emoji_world.FOLDER", Path(tmp_path))
    with pytest.raises(DataError, match="No emoji at .*: expected the folder that data/build_emoji_world.py writes"):
        data.load("emoji-32", "train")
    data.emoji_listing.cache_clear()


def test_drawings_are_called_by_group_and_style():
    images = data.load("emoji-32", "heldout")
    named = data.by_style(images)
    assert len(named.class_names) == 72 and torch.equal(named.images, images.images)
    for i in range(0, 1156, 97):
        group, style = images.class_names[images.labels[i]], images.extra["style"]
        assert named.class_names[named.labels[i]] == f"{group}, {style.names[style.values[i]]}"
    preset = presets.get("duel-emoji-var", {"views": 1})
    train, validation = presets.training_set(preset), presets.validation_set(preset)
    assert len(train.class_names) == len(validation.class_names) == preset.model.num_classes == 72
    asked = argparse.Namespace(
        dataset=None, preset="duel-emoji-var", split="validation", crop=None, views=None, data=None
    )
    cached = images_to_tokenize(asked, VQVAE(preset.tokenizer), None)
    assert torch.equal(cached.labels, validation.labels) and len(cached.class_names) == 72
    assert len(train) == 8775 and len(presets.training_set(presets.get("duel-emoji-var", {"views": 2}))) == 2 * 8775
