"""What chapters and README make of the rivals' results."""

import pytest

from minivar.book import rivals


def run(side, seed, ratio, other, part="seeds", **more):
    judges = {"classifier": {"frechet_ratio": ratio}, "contrast": {"frechet_ratio": other}}
    scores = {"judges": judges, "accuracy": 0.9, "plain": {"accuracy": 0.5, "judges": judges}}
    return {"side": side, "seed": seed, "part": part, "scores": scores, **more}


RESULTS = {
    "runs": {
        "b": run("var", 1, 2.0, 5.0),
        "a": run("var", 0, 1.0, 6.0),
        "c": run("gpt2", 0, 4.0, 4.0),
        "d": run("gpt2", 1, 3.0, 3.0),
        "e": run("gpt2", 2, 9.0, 2.0),
        "f": run("var", 0, 7.0, 7.0, "variants", variant="no-phi"),
        "g": run("var", 0, 8.0, 8.0, world="emoji"),
    }
}
RATIO = rivals.score("frechet_ratio", "classifier")


def test_runs_come_by_side_and_seed():
    rows = rivals.runs_of(RESULTS)
    assert list(rows) == ["var", "gpt2"]
    assert [RATIO(each) for each in rows["var"]] == [1.0, 2.0]
    assert list(rivals.runs_of(RESULTS, "variants")) == ["no-phi"]
    assert RATIO(rivals.runs_of(RESULTS, world="emoji")["var"][0]) == 8.0
    assert rivals.score("accuracy", of="plain")(rows["var"][0]) == 0.5


def test_intervals_are_of_the_mean_over_seeds():
    mean, low, high = rivals.mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and 1.0 <= low < 2.0 < high <= 3.0
    assert rivals.mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    rows = rivals.runs_of(RESULTS)
    apart = rivals.difference(rows["var"], rows["gpt2"], RATIO)  # seeds 0 and 1: 1 - 4 and 2 - 3
    assert apart == (-2.0, -3.0, -1.0)
    with pytest.raises(ValueError, match="no seed in common"):
        rivals.difference(rows["var"], [rows["gpt2"][2]], RATIO)


def test_a_table_says_how_many_seeds_and_whether_the_judges_agree():
    rows = rivals.runs_of(RESULTS)
    text = rivals.table(rows, {"ratio": RATIO})
    assert text.splitlines()[1].split() == ["next", "scale", "(VAR)", "2", "1.50", "(1.00", "to", "2.00)"]
    said = rivals.judges_agree(rows)
    assert "classifier: var, gpt2" in said and "contrast: gpt2, var" in said and "0% of all pairs" in said
