"""The names of ImageNet's classes."""

import re

import pytest

from minivar import data


def test_the_names_are_a_thousand_and_each_finds_its_class():
    names = data.class_names()
    assert len(names) == len(set(names)) == 1000
    assert not any("," in name for name in names)  # they are given in lists
    assert [data.find_class(name) for name in names] == list(range(1000))
    assert names[0] == "tench" and names[207] == "golden retriever" and names[980] == "volcano"


def test_capitals_and_spaces_do_not_matter_unless_they_have_to():
    assert data.find_class("  GOLDEN   retriever ") == 207
    assert (data.find_class("Cardigan"), data.find_class("cardigan")) == (264, 474)
    with pytest.raises(data.DataError, match=r"no one class 'CARDIGAN'.*Cardigan \(264\), cardigan \(474\)"):
        data.find_class("CARDIGAN")


@pytest.mark.parametrize(
    ("name", "near"),
    [("goldfsh", "goldfish (1)"), ("retriever", "flat-coated retriever (205)"), ("a tench", "tench (0)")],
)
def test_an_unknown_name_is_refused_with_names_like_it(name, near):
    with pytest.raises(data.DataError, match=f"ImageNet has no one class '{name}'.*{re.escape(near)}"):
        data.find_class(name)
