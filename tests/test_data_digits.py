"""data/digits.npz is what its card, data/DIGITS.md, says it is."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from minivar import data

DATA = Path(__file__).resolve().parent.parent / "data"
COUNTS = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]


@pytest.fixture(scope="module")
def digits():
    with np.load(DATA / "digits.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def card_row(name: str) -> list[int]:
    """The numbers of the card's table row that starts with `name`."""
    card = (DATA / "DIGITS.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {name} \|([\d| ]+)\|$", card, flags=re.MULTILINE)
    return [int(cell) for cell in row.split("|")]


def test_shapes_and_dtypes(digits):
    assert {name: (array.shape, str(array.dtype)) for name, array in digits.items()} == {
        "images": ((10000, 28, 28), "uint8"),
        "labels": ((10000,), "uint8"),
        "heldout": ((10000,), "bool"),
    }


def test_pixels_use_the_whole_range(digits):
    assert digits["images"].min() == 0
    assert digits["images"].max() == 255
    # The mean pixel of all of MNIST is 0.1307.
    assert digits["images"].mean() / 255 == pytest.approx(0.1307, abs=0.002)


def test_counts(digits):
    assert np.bincount(digits["labels"]).tolist() == COUNTS


def test_split_is_stratified(digits):
    assert np.bincount(digits["labels"][digits["heldout"]]).tolist() == [200] * 10


def test_no_image_occurs_twice(digits):
    # Hence none is on both sides of the split.
    assert len({image.tobytes() for image in digits["images"]}) == 10000


def test_a_prefix_is_a_random_sample(digits):
    prefix = slice(0, 1000)
    assert np.bincount(digits["labels"][prefix], minlength=10).min() > 60
    assert 150 < digits["heldout"][prefix].sum() < 250


def test_card_states_the_counts(digits):
    heldout = np.bincount(digits["labels"][digits["heldout"]]).tolist()
    training = torch.bincount(data.load("digits").labels).tolist()
    validation = torch.bincount(data.load("digits", "validation").labels).tolist()
    assert card_row("all") == [*COUNTS, 10000]
    assert card_row("training") == [*training, 7200]
    assert card_row("validation") == [*validation, 800]
    assert card_row("held out") == [*heldout, 2000]


def test_card_states_the_file():
    content = (DATA / "digits.npz").read_bytes()
    card = (DATA / "DIGITS.md").read_text(encoding="utf-8")
    assert f"`{hashlib.sha256(content).hexdigest()}`" in card
    assert f"{len(content):,} bytes" in card
