"""data/emoji.npz is what its card, data/EMOJI.md, says it is, and data.load gives it out."""

import ast
import hashlib
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minivar import data
from minivar.data import DataError

DATA = Path(__file__).resolve().parent.parent / "data"
CARD = (DATA / "EMOJI.md").read_text(encoding="utf-8")
SCRIPT = (DATA / "build_emoji.py").read_text(encoding="utf-8")
GROUPS = {
    "Smileys & Emotion": 338,
    "People & Body": 4485,
    "Animals & Nature": 318,
    "Food & Drink": 262,
    "Travel & Places": 436,
    "Activities": 170,
    "Objects": 528,
    "Symbols": 448,
    "Flags": 524,
}
TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def script_constant(name: str):
    """A constant of data/build_emoji.py, without running it."""
    (node,) = (n for n in ast.parse(SCRIPT).body if isinstance(n, ast.Assign) and n.targets[0].id == name)
    return ast.literal_eval(node.value)


@pytest.fixture(scope="module")
def emoji():
    with np.load(DATA / "emoji.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def splits():
    return data.load("emoji", "train"), data.load("emoji", "heldout")


def test_shapes_and_dtypes(emoji):
    assert {name: (array.shape, array.dtype.kind) for name, array in emoji.items()} == {
        "images": ((7509, 32, 32, 3), "u"),
        **dict.fromkeys(("group", "subgroup", "style"), ((7509,), "u")),
        "heldout": ((7509,), "b"),
        **dict.fromkeys(("unified", "base", "short_name", "name"), ((7509,), "U")),
        "group_names": ((9,), "U"),
        "subgroup_names": ((98,), "U"),
        "style_names": ((2,), "U"),
    }
    assert emoji["images"].dtype == np.uint8
    assert (DATA / "emoji.npz").stat().st_size < 12e6


def test_the_content_is_what_the_script_builds():
    with zipfile.ZipFile(DATA / "emoji.npz") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert hashlib.sha256(content).hexdigest() == script_constant("CONTENT_SHA256")


def test_counts(emoji):
    assert emoji["group_names"].tolist() == list(GROUPS) == list(script_constant("GROUPS"))
    assert np.bincount(emoji["group"]).tolist() == list(GROUPS.values())
    assert np.bincount(emoji["style"]).tolist() == [3762, 3747]
    assert np.bincount(emoji["subgroup"], minlength=98).min() > 0


def test_drawings_are_in_colour_on_white(emoji):
    images = emoji["images"]
    assert images.min() == 0
    assert images.max() == 255
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(-1).mean() > 0.85  # the rest are squares, flags and scenes that fill the picture
    assert (images.reshape(7509, -1).min(1) < 250).all()  # none is blank
    assert (np.ptp(images, axis=-1) > 40).any((1, 2)).mean() > 0.9  # few are grey


def test_a_known_drawing_has_its_colours(emoji):
    (heart,) = np.flatnonzero((emoji["short_name"] == "green_heart") & (emoji["style"] == 1))
    red, green, blue = emoji["images"][heart, 16, 16].astype(int)
    assert green > red + 50
    assert green > blue + 50


def test_both_styles_draw_nearly_every_emoji(emoji):
    noto, twemoji = (set(emoji["unified"][emoji["style"] == style]) for style in (0, 1))
    assert len(noto & twemoji) > 3700
    assert len(set(zip(emoji["unified"], emoji["style"]))) == 7509


def test_labels_are_consistent(emoji):
    for fine, coarse in (
        ("subgroup", "group"),
        ("short_name", "subgroup"),
        ("base", "group"),
        ("short_name", "base"),
    ):
        pairs = set(zip(emoji[fine].tolist(), emoji[coarse].tolist()))
        assert len(pairs) == len(np.unique(emoji[fine])), f"one {fine} lies in two of {coarse}"
    assert "Component" not in emoji["group_names"]
    assert all(re.fullmatch(r"[0-9A-F]{4,5}(-[0-9A-F]{4,5})*", code) for code in emoji["unified"])
    wave = emoji["short_name"] == "wave"
    assert sorted(emoji["unified"][wave & (emoji["style"] == 0)]) == [
        "1F44B",
        *(f"1F44B-{tone}" for tone in sorted(TONES)),
    ]
    assert set(emoji["name"][wave]) == {"WAVING HAND SIGN"}
    assert set(emoji["subgroup_names"][emoji["subgroup"][wave]]) == {"hand-fingers-open"}


def test_no_image_occurs_twice(emoji):
    # Hence none is on both sides of the split.
    assert len({image.tobytes() for image in emoji["images"]}) == 7509


def test_validation_emoji_show_other_things_than_training_emoji(splits):
    train, validation = splits[0], data.load("emoji", "validation")
    for key in ("name", "unified"):
        assert not set(train.extra[key].values.tolist()) & set(validation.extra[key].values.tolist())
    shares = torch.bincount(validation.labels, minlength=9) / torch.bincount(train.labels, minlength=9)
    assert shares.min() > 0.05
    assert shares.max() < 0.2


@pytest.mark.parametrize("key", ["base", "short_name", "unified"])
def test_no_emoji_is_on_both_sides(emoji, key):
    heldout = emoji["heldout"]
    assert not set(emoji[key][heldout]) & set(emoji[key][~heldout])


def test_skin_tones_gender_and_direction_stay_together(emoji):
    # A coarser base than the script's, for single persons: what is left without any of these code points.
    drop = TONES | {"200D", "FE0F", "2640", "2642", "27A1"}
    adults = {"1F468": "1F9D1", "1F469": "1F9D1"}
    sides = {}
    for unified, heldout in zip(emoji["unified"], emoji["heldout"]):
        key = tuple(adults.get(part, part) for part in unified.split("-") if part not in drop)
        sides.setdefault(key, set()).add(bool(heldout))
    sides = {key: side for key, side in sides.items() if key}
    assert [key for key, side in sides.items() if len(side) == 2] == []
    # Bases that are another emoji altogether.
    of = dict(zip(emoji["short_name"].tolist(), emoji["base"].tolist()))
    for same in (
        ("man", "woman", "adult", "bald_man", "blond-haired-woman"),
        ("farmer", "male-farmer", "female-farmer"),
        ("prince", "princess", "person_with_crown"),
        ("santa", "mrs_claus", "mx_claus"),
        ("runner", "woman_running_facing_right"),
        ("couplekiss", "man-kiss-man", "woman-kiss-man"),
        ("two_men_holding_hands", "people_holding_hands"),
        ("family", "man-woman-girl-boy", "woman-girl"),
        ("fr", "flag-cp"),
        ("flag-no", "flag-bv"),
    ):
        assert len({of[name] for name in same if name in of}) == 1
    assert len({of[name] for name in ("farmer", "cook", "adult", "heart", "heart_on_fire", "female_sign")}) == 6


def test_the_split_is_the_hash_of_the_base(emoji):
    salt = script_constant("SALT")
    for base, heldout in set(zip(emoji["base"].tolist(), emoji["heldout"].tolist())):
        digest = hashlib.sha256(f"{salt} {base}".encode()).hexdigest()
        assert (int(digest, 16) % 10 == 0) == heldout


def test_the_split_is_even(emoji):
    heldout = emoji["heldout"]
    assert 0.09 <= heldout.mean() <= 0.11
    for key, least, most in (("group", 0.08, 0.12), ("style", 0.08, 0.12), ("subgroup", 0, 0.5)):
        shares = np.bincount(emoji[key][heldout], minlength=emoji[key].max() + 1) / np.bincount(emoji[key])
        assert least <= shares.min()
        assert shares.max() <= most
    for group in range(9):
        _, counts = np.unique(emoji["base"][heldout & (emoji["group"] == group)], return_counts=True)
        assert counts.max() <= counts.sum() / 4


# The card ---------------------------------------------------------------------------------------------------------


def card_row(name: str) -> list[int]:
    """The numbers of the card's table row that starts with `name`."""
    (row,) = re.findall(rf"^\| {re.escape(name)} \|([\d| ]+)\|$", CARD, flags=re.MULTILINE)
    return [int(cell) for cell in row.split("|")]


def test_card_states_the_counts(emoji):
    splits = [data.load("emoji", split).labels for split in data.SPLITS]
    for number, name in enumerate([*GROUPS, "all"]):
        chosen = emoji["group"] == number if name in GROUPS else np.full(7509, True)
        style = emoji["style"][chosen]
        parts = [(labels == number).sum() if name in GROUPS else len(labels) for labels in splits]
        assert card_row(name) == [(style == 0).sum(), (style == 1).sum(), len(style), *map(int, parts)]


def test_card_states_what_it_says_of_bases_and_skin_tones(emoji):
    heldout, base = emoji["heldout"], emoji["base"]
    assert f"{len(set(base)):,} base emoji {len(set(base[heldout]))} are held out" in CARD
    tone = np.array([bool(TONES & set(code.split("-"))) for code in emoji["unified"]])
    people = emoji["group"] == 1
    assert f"of its {people.sum():,} images {(tone & people).sum():,} have a skin tone" in CARD
    assert not (tone & ~people).any()
    assert f"{(~tone).sum():,} images are left, {(~tone & heldout).sum()} of them held out" in CARD
    subgroups = (len(set(emoji["subgroup"][part])) for part in (~heldout, heldout))
    assert "All {} subgroups are in the training part, {} in the held-out part".format(*subgroups) in CARD


def test_card_states_the_file():
    content = (DATA / "emoji.npz").read_bytes()
    assert f"`{hashlib.sha256(content).hexdigest()}`" in CARD
    assert f"{len(content):,} bytes" in CARD


def test_card_names_the_archives_that_the_script_accepts():
    assert script_constant("VERSION") in CARD
    for name, digest in script_constant("STYLES").values():
        assert f"emoji-datasource-{name}" in CARD
        assert f"`{digest}`" in CARD


@pytest.mark.parametrize("name", ["data/EMOJI.md", "README.md"])
def test_licences_are_stated(name):
    text = (DATA.parent / name).read_text(encoding="utf-8")
    for words in ("Noto Emoji", "Apache License 2.0", "Twemoji", "Twitter, Inc and other contributors", "CC BY 4.0"):
        assert words in text
    assert re.search(r"emoji-data\b.*MIT licence", text)


def test_licence_texts_go_with_the_data():
    text = (DATA / "EMOJI-LICENCES.txt").read_text(encoding="utf-8")
    assert "Copyright (c) 2013 Cal Henderson" in text
    assert "END OF TERMS AND CONDITIONS" in text  # of the Apache License
    assert "https://creativecommons.org/licenses/by/4.0/" in text


def test_the_cards_picture_is_small():
    content = (DATA / "figures" / "emoji.png").read_bytes()
    assert len(content) < 300_000
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "P"
    assert "(figures/emoji.png)" in CARD


# data.load --------------------------------------------------------------------------------------------------------


def test_splits_are_given_out_as_datasets(splits):
    train, heldout = splits
    validation = data.load("emoji", "validation")
    assert (len(train), len(validation), len(heldout)) == (6013, 776, 720)
    for images in (*splits, validation):
        assert images.image_shape == (3, 32, 32)
        assert images.class_names == tuple(GROUPS)
        assert images.labels.dtype == torch.int64
        assert {key: len(labels.names) for key, labels in images.extra.items()} == {
            "subgroup": 98,
            "style": 2,
            "name": 1894,
            "unified": 3769,
        }
        for labels in images.extra.values():
            assert labels.values.shape == (len(images),)
            assert labels.values.dtype == torch.int64
            assert 0 <= labels.values.min() <= labels.values.max() < len(labels.names)
    assert {key: labels.names for key, labels in train.extra.items()} == {
        key: labels.names for key, labels in heldout.extra.items()
    }
    batch, labels = train.batch(torch.tensor([3, 0]))
    assert batch.shape == (2, 3, 32, 32)
    assert batch.min() >= -1
    assert batch.max() == 1
    assert labels.tolist() == train.labels[[3, 0]].tolist()


def test_image_and_labels_belong_together(emoji, splits):
    rows = {image.tobytes(): i for i, image in enumerate(emoji["images"])}
    for images, part in zip(splits, ("train", "heldout")):
        index = np.array([rows[image.permute(1, 2, 0).numpy().tobytes()] for image in images.images])
        assert (emoji["heldout"][index] == (part == "heldout")).all()
        assert (emoji["group"][index] == images.labels.numpy()).all()
        for key, column in (("subgroup", "subgroup"), ("style", "style")):
            assert (emoji[column][index] == images.extra[key].values.numpy()).all()
        for key, column in (("name", "short_name"), ("unified", "unified")):
            labels = images.extra[key]
            assert emoji[column][index].tolist() == [labels.names[value] for value in labels.values]


def test_no_held_out_image_is_trained_on(splits):
    train, heldout = (set(map(bytes, images.images.numpy())) for images in splits)
    assert not train & heldout


def test_a_prefix_is_a_random_sample(splits):
    for images in splits:
        part = len(images) // 3
        whole, first = (torch.bincount(x, minlength=9) / len(x) for x in (images.labels, images.labels[:part]))
        assert (whole - first).abs().max() < 0.06
        assert torch.equal(data.load_emoji("heldout").images[:5], splits[1].images[:5])


def test_views_keep_further_labels_and_the_white_background(splits):
    _, heldout = splits
    views = data.jittered(heldout, 2, degrees=20)
    assert len(views) == 1440
    assert views.background == 1
    for key, labels in views.extra.items():
        assert labels.names == heldout.extra[key].names
        assert torch.equal(labels.values, heldout.extra[key].values.repeat(2))
    white = (heldout.images[:, :, 0, 0] == 255).all(1)
    assert views.images[720:, :, 0, 0][white].float().mean() > 250  # black corners would turn in from outside


@pytest.fixture(scope="module")
def still_views(splits):
    """Four times the held-out emoji as for training, but neither turned nor resized, and which image each was."""
    _, heldout = splits
    views = data.emoji_views(heldout, 4, degrees=0, scale=0)
    place = {image.numpy().tobytes(): i for i, image in enumerate(heldout.images)}
    return views, torch.tensor([place[image.numpy().tobytes()] for image in views.images])


def test_training_views_are_named_by_group_style_and_subgroup(splits, still_views):
    (_, heldout), (views, origin) = splits, still_views
    assert len(views.class_names) == len(set(views.class_names)) == 9 + 2 * 9 + 2 * 98
    assert views.class_names[:9] == heldout.class_names
    assert views.class_names[9:11] == ("Smileys & Emotion, noto", "Smileys & Emotion, twemoji")
    style, subgroup = heldout.extra["style"], heldout.extra["subgroup"]
    seen = set()
    for label, i in zip(views.labels.tolist(), origin.tolist()):
        group, drawn = heldout.class_names[heldout.labels[i]], style.names[style.values[i]]
        detail = (label >= 9) + (label >= 27)
        expected = (group, f"{group}, {drawn}", f"{subgroup.names[subgroup.values[i]]}, {drawn}")[detail]
        assert views.class_names[label] == expected
        seen.add((i, detail))
    by_detail = torch.bincount(torch.tensor([detail for _, detail in seen]), minlength=3)
    assert by_detail.min() > 0.4 * len(heldout)


def test_training_views_are_balanced(splits, still_views):
    (_, heldout), (views, origin) = splits, still_views
    assert len(views) == 4 * len(heldout)
    assert views.background == 1
    before = torch.bincount(heldout.labels) / len(heldout)
    after = torch.bincount(heldout.labels[origin]) / len(views)
    people = heldout.class_names.index("People & Body")
    assert before[people] > 0.55
    assert after[people] < 0.25
    assert after.max() < 3 * after.min()
    drawing = heldout.extra["name"].values * 2 + heldout.extra["style"].values
    count = torch.bincount(drawing[origin], minlength=int(drawing.max()) + 1)[drawing[heldout.labels == people]]
    assert count.min() >= 1  # a drawing with many skin tones comes as often as one with none, up to rounding
    assert count.max() <= count.min() + 1


def test_further_labels_are_part_of_the_fingerprint(splits):
    _, heldout = splits
    assert heldout.fingerprint == data.load("emoji", "heldout").fingerprint
    plain = data.ArraySet(heldout.images, heldout.labels, heldout.class_names)
    assert plain.fingerprint != heldout.fingerprint


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("minivar.data.embedded.DATA_ROOT", tmp_path)
    with pytest.raises(
        DataError, match="No embedded emoji at .*emoji.npz: expected the file that .*emoji.py"
    ) as caught:
        data.load("emoji")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="Unknown split 'test': expected one of train, validation, heldout"):
        data.load("emoji", "test")
