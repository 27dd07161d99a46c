"""The plan of experiments/colour.py: what is to be done, in which order, and what is chosen by what."""

import pytest
import torch
from conftest import SCHEDULE

from experiments import colour
from minivar import evaluation, models


def result(validation: float, pairs: float = 0.0) -> dict:
    return {"losses": {"validation": validation, "validation-pairs": pairs, "heldout": 0.0}}


@pytest.fixture
def done(tmp_path, monkeypatch):
    """Results, by name, that a test fills; nothing is on the disk."""
    found = {}
    monkeypatch.setattr(colour, "RUNS", tmp_path)
    monkeypatch.setattr(colour, "results", lambda: found)
    return found


def test_settings_are_chosen_by_both_validation_losses_and_only_if_they_beat_the_presets(done):
    for run in colour.trials():
        done[run.name] = result(4.0, 4.0)
    assert colour.chosen(done) == ()
    done["settings-text-emoji-var-mirror-seed99"] = result(4.5, 3.4)
    done["settings-text-emoji-var-views16-seed99"] = result(3.0, 5.2)
    done["settings-text-emoji-var-dropout20-seed99"] = result(3.9, 3.9)
    assert colour.chosen(done) == ("dropout20", "mirror")
    del done["settings-text-emoji-var-rate4-seed99"]
    assert colour.chosen(done) is None


def test_first_tokenizers_then_settings_then_the_orders(done):
    names = [job.name for job in colour.waiting()]
    assert names[:2] == ["tokenizer-multi-scale", "tokenizer-single"]
    assert not any(name.startswith("orders") for name in names)
    assert not any(job.ready for job in colour.waiting() if isinstance(job, colour.Run))
    for run in colour.trials():
        done[run.name] = result(4.0)
    done["settings-text-emoji-var-mirror-seed99"] = result(3.0)
    runs = [job for job in colour.waiting() if getattr(job, "part", "") == "orders"]
    assert len(runs) == 3 * 3 + 1 and {run.settings for run in runs} == {("mirror",)}
    assert [run.order for run in runs[:4]] == list(colour.ORDERS)
    for run in [*runs, colour.Run("text-emoji-var", "baseline", (), 0)]:
        done[run.name] = result(4.0)
    assert colour.waiting() == []  # tokenizers alone are for nobody


def test_a_setting_changes_what_a_model_has(monkeypatch):
    monkeypatch.setattr(colour.Run, "images", lambda self, preset: range(64 * 100 * preset.views))
    run = colour.Run("text-emoji-var", "orders", ("dropout20-drop-path20", "views16-strong", "width192"), 1)
    preset = run.preset
    assert (preset.model.dropout, preset.model.drop_path, preset.model.width) == (0.2, 0.2, 192)
    assert (preset.views, preset.jitter, preset.model_train.seed) == (16, (12.0, 0.15), 1)
    assert round(preset.model_train.epochs * 1600) == colour.STEPS
    classes = colour.Run("colour-var", "orders", ("dropout20",), 0).preset.model
    assert type(classes) is models.VARConfig
    assert colour.Run("text-emoji-gpt", "orders", ("dropout20", "drop-path20")).preset.model.dropout == 0.2
    for kind in colour.SETTINGS.values():
        for name in kind:
            for order in colour.ORDERS:
                colour.Run(order, "settings", (name,)).preset  # noqa: B018


def test_a_model_of_frequencies_knows_how_often_a_code_is_where():
    known = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 3]])
    first, second = (4 + 1) / 8, [1 / 8, 3 / 8, 2 / 8, 2 / 8]
    found = evaluation.frequency_loss(known, torch.tensor([[0, 1], [0, 2]]), 4)
    expected = -torch.tensor([first, second[1], first, second[2]]).log().mean()
    assert found == pytest.approx(expected.item())
    nothing = evaluation.frequency_loss(
        torch.zeros(0, 21, dtype=torch.int64), torch.zeros(2, 21, dtype=torch.int64), 16
    )
    assert nothing == pytest.approx(torch.tensor(16.0).log().item()) and SCHEDULE.num_tokens == 21
