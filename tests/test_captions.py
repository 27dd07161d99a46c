"""Captions of the emoji world: colours, words, what an epoch says, and what cannot be read."""

import pytest
import torch

from minivar import data
from minivar.data import ArraySet, Labels, Vocabulary
from minivar.data.captions import check_style, compose
from minivar.data.colours import NAMES, NONE, colour_of
from minivar.data.words import END, trigrams, words_of

STYLES = ("noto", "twemoji", "noto-v1")
RGB = {
    "red": (220, 30, 40), "orange": (250, 140, 20), "yellow": (255, 220, 60), "green": (40, 160, 60),
    "cyan": (40, 180, 200), "blue": (40, 90, 220), "purple": (140, 60, 220), "pink": (240, 120, 190),
    "brown": (120, 70, 40), "black": (10, 10, 10), "grey": (130, 130, 130), "white": (255, 255, 255),
}  # fmt: skip


def square(colour: tuple[int, int, int], size: int = 16) -> torch.Tensor:
    """A square on white, uint8 (3, size, size)."""
    image = torch.full((3, size, size), 255, dtype=torch.uint8)
    image[:, 4:12, 4:12] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return image


def drawings(count: int = 12) -> ArraySet:
    """Squares in the colours there are, named after things of the listing, in three styles; 16 pixels."""
    things = data.emoji_listing()["things"][200 : 200 + count // 2]
    images = torch.stack([square(RGB[NAMES[i % 12]]) for i in range(count)])
    number = torch.arange(count) // 2
    extra = {
        "name": Labels(number, tuple(thing["name"] for thing in things)),
        "thing": Labels(number, tuple(thing["id"] for thing in things)),
        "style": Labels(torch.arange(count) % 3, STYLES),
    }
    return ArraySet(images, number % 2, ("a", "b"), extra, background=1.0)


def test_a_square_has_the_colour_that_it_was_painted_in():
    images = torch.stack([square(rgb) for rgb in RGB.values()])
    assert [NAMES[i] for i in colour_of(images).tolist()] == list(RGB)


def test_a_drawing_without_one_colour_that_stands_out_has_none():
    flag = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    for row, name in enumerate(("red", "yellow", "green", "blue")):
        flag[:, 2 + 3 * row : 5 + 3 * row] = torch.tensor(RGB[name], dtype=torch.uint8)[:, None, None]
    assert colour_of(flag[None]).item() == NONE
    outlined = square(RGB["blue"])  # black around it does not count
    outlined[:, 4:12, 4:6] = 0
    assert NAMES[colour_of(outlined[None])] == "blue"


def test_words_and_their_trigrams():
    assert words_of("Red apple, noto-v1!") == ["red", "apple", "noto", "v1"]
    assert words_of("flag: Côte d’Ivoire") == ["flag", "cote", "divoire"]
    assert trigrams("ape") == ["<ap", "ape", "pe>"]
    assert trigrams("a") == ["<a>"]
    assert data.common_words(["red apple", "green apple", "apple apple"]) == ("apple",)


def test_a_word_has_its_own_number_if_it_is_known_and_its_trigrams_in_any_case():
    vocabulary = Vocabulary(("apple", "berry"), buckets=64, length=4, pieces=8)
    ids = vocabulary.ids(["apple", "berry strawberry"])
    assert ids.shape == (2, 4, 8)
    assert ids[0, :2].eq(0).all() and ids[0, 2, 0] == 2  # padding is on the left
    assert ids[:, -1, 0].eq(END).all() and ids[:, -1, 1:].eq(0).all()
    known, unknown = set(ids[1, 1].tolist()) - {0}, set(ids[1, 2].tolist()) - {0}
    assert 3 in known and 3 not in unknown
    assert len(known & unknown) >= 2  # "rry", "ry>", ...
    assert ids.max() < vocabulary.size
    assert Vocabulary(("apple", "berry"), 64, 4, 8).ids(["apple"]).equal(ids[:1])  # the same in every process


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a word in Latin letters or a number; got ''"),
        (" ,. ", "needs a word in Latin letters"),
        ("яблоко", "needs a word in Latin letters"),
        ("one two three four five", "may have 3 words; got 5, 'one two three four five'"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(text, words):
    with pytest.raises(data.DataError) as error:
        Vocabulary(("one",), length=4).ids(["one", text])
    assert words in str(error.value) and str(error.value).endswith(".")


def test_a_style_behind_the_comma_must_be_one():
    for text in ("red apple", "red apple, noto", "red apple , Noto-V1 "):
        check_style(text, STYLES)
    with pytest.raises(data.DataError, match="Unknown style 'nota': expected, behind the comma, one of noto, twemo"):
        check_style("red apple, nota", STYLES)


def test_captions_depend_on_seed_and_epoch_alone_and_say_now_this_and_now_that():
    images, index = data.captioned(drawings()), torch.arange(12)
    epochs = [images.captions(index, epoch) for epoch in range(40)]
    again = data.captioned(drawings())
    assert again.captions(index.flip(0), 3) == epochs[3][::-1]
    assert data.captioned(drawings(), seed=1).captions(index, 3) != epochs[3]
    texts = [text for epoch in epochs for text in epoch]
    said = torch.cat([images.said(index, epoch) for epoch in range(40)]).float().mean(0)
    assert 0.5 < said[0] < 0.7 and 0.2 < said[1] < 0.4 and 0.4 < said[2] < 0.6 and 0.65 < said[3] < 0.85
    assert all(texts) and len(set(texts)) > 60
    assert any(text in ("twemoji", "noto") for text in texts)  # a style alone
    Vocabulary((), length=12).ids(texts)  # none is too long
    for _, style in (text.rsplit(", ", 1) for text in texts if "," in text):
        assert style in STYLES


def test_a_full_caption_has_colour_name_and_style_and_no_colour_twice():
    images = drawings()
    images.extra["name"] = Labels(images.extra["name"].values, ("red heart", *images.extra["name"].names[1:]))
    captions = data.captioned(images).full_captions(torch.arange(12))
    assert captions[0] == "red heart, noto"
    name = " ".join(words_of(images.extra["name"].names[1]))
    assert captions[2] == f"yellow {name}, noto-v1"
    assert compose("", "apple", "") == "apple" and compose("red", "", "noto") == "red, noto"


def test_keywords_are_those_of_the_thing():
    images = data.captioned(drawings())
    known = {thing["id"]: thing for thing in data.emoji_listing()["things"]}
    for epoch in range(10):
        said = images.said(torch.arange(12), epoch)
        for i in said[:, 1].nonzero()[:, 0].tolist():
            thing = known[images.extra["thing"].names[i // 2]]
            allowed = set(words_of(" ".join([*thing["keywords"], thing["name"], *NAMES, *STYLES])))
            assert set(words_of(images.captions(torch.tensor([i]), epoch)[0])) <= allowed


def test_views_have_the_colour_of_their_original_and_captions_of_their_own():
    images = data.with_colours(drawings())
    views = data.captioned(data.jittered(images, 3))
    assert views.extra["colour"].values.equal(images.extra["colour"].values.repeat(3))
    texts = views.captions(torch.arange(36), 0)
    assert texts[:12] != texts[12:24]


def test_images_without_names_have_no_captions():
    images = drawings()
    del images.extra["style"]
    with pytest.raises(data.DataError, match="made of name, thing, style, colour: expected them .*, no style"):
        data.captioned(images)


def test_the_fingerprint_knows_how_images_are_called():
    images = drawings()
    prints = {images.fingerprint, data.captioned(images).fingerprint, data.captioned(images, seed=1).fingerprint}
    assert len(prints) == 3


def test_mirror_images_of_what_has_neither_writing_nor_a_side():
    images = drawings(8)
    names = ("left-facing fist left", "cat", "smiling dog", "letter")
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    images = ArraySet(images.images, labels, ("Smileys & Emotion", "Food & Drink, noto", "Symbols"), images.extra)
    images.extra["name"] = Labels(images.extra["name"].values, names)
    found = data.mirrored_where_it_suits(images)
    assert found.labels[8:].tolist() == [0, 0, 1, 1]
    assert found.extra["name"].values[8:].tolist() == [1, 1, 2, 2]
    assert found.images[8].equal(images.images[2].flip(-1))
