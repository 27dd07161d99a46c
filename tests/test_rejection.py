"""Rejection sampling: what is kept is what the classifier is surest of, and there is enough of it."""

import numpy as np
import pytest
import torch

from minivar import cli, evaluation


def test_the_surest_of_each_class_are_kept_in_the_order_of_what_is_wanted():
    labels = torch.tensor([0, 1, 0, 1, 0])
    logits = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    wanted = torch.tensor([1, 0, 0])
    assert evaluation.surest(logits, labels, wanted).tolist() == [1, 2, 4]
    assert evaluation.surest(logits, labels, torch.tensor([0, 0, 0, 1])).tolist() == [2, 4, 0, 1]
    high = torch.tensor([[9.0, 8.9], [1.0, -9.0]])  # what counts is the probability, not the logit
    assert evaluation.surest(high, torch.tensor([0, 0]), torch.tensor([0])).tolist() == [1]
    with pytest.raises(ValueError, match="Class 1 has 2 drawings; expected at least the 3 wanted"):
        evaluation.surest(logits, labels, torch.tensor([1, 1, 1]))


def test_enough_is_drawn_of_each_class():
    wanted = torch.tensor([3] * 7 + [5] * 2)
    drawn = evaluation.candidates(wanted, 0.07)
    assert torch.bincount(drawn).tolist() == [0, 0, 0, 100, 0, 29]
    torch.testing.assert_close(evaluation.candidates(wanted, 1.0).sort().values, wanted.sort().values)
    assert (evaluation.candidates(wanted, 0.07, seed=1) != drawn).any()
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"lies in \(0, 1\]; got {share}"):
            evaluation.candidates(wanted, share)


def test_commands_keep_what_is_recognised(tmp_path, capsys):
    classifier = evaluation.load_digit_classifier()[0]

    def sure(*options: str) -> float:
        command = ["sample", "--count", "20", "--out", str(tmp_path / "g.png"), "--npz", str(tmp_path / "s.npz")]
        assert cli.main([*command, *options]) == 0
        with np.load(tmp_path / "s.npz") as file:
            images, labels = torch.from_numpy(file["images"])[:, None], torch.from_numpy(file["labels"])
        assert labels.tolist() == [i % 10 for i in range(20)]
        logits = evaluation.in_batches(classifier, images * 2 - 1)
        return logits.log_softmax(1).gather(1, labels[:, None]).mean().item()

    assert sure("--accept", "0.25") > sure()
    out = tmp_path / "none.png"
    for command in (
        ["sample", "--checkpoint", "data/checkpoints/emoji", "--accept", "0.5", "--out", str(out)],
        ["evaluate", "--checkpoint", "data/checkpoints/emoji", "--accept", "0.5", "--count", "20"],
    ):
        assert cli.main(command) != 0
        assert "there is one of the digits alone; got data/checkpoints/emoji" in capsys.readouterr().err
    assert cli.main(["sample", "--accept", "0", "--out", str(out)]) != 0
    assert "(0, 1]; got 0.0" in capsys.readouterr().err
    assert cli.main(["sample", "--accept", "1e-7", "--out", str(out)]) != 0
    assert "--count / --accept must be at most" in capsys.readouterr().err
    assert not out.exists()
