"""Training on mistakes: what is replaced is seen by the inputs and undone by the targets of later scales."""

import pytest
import torch
from conftest import SCHEDULE, var_config, wake

from minivar import training
from minivar.data import ArraySet
from minivar.models import VAR
from minivar.scales import ScaleSchedule
from minivar.tokenizer import CacheError, TokenCache, write_cache


def pictures() -> ArraySet:
    random = torch.Generator().manual_seed(0)
    return ArraySet(torch.randint(0, 255, (64, 1, 16, 16), generator=random).byte().numpy(), [0] * 64, ["a"] * 5)


def features_of(tokenizer) -> torch.Tensor:
    return tokenizer.features(pictures().batch(slice(None))[0])


def task_of(share: float, tokenizer, data=None) -> training.VARTask:
    return training.VARTask(wake(VAR(var_config(mistaken=share))), tokenizer, data or pictures())


def test_without_mistakes_they_are_the_tokens_and_inputs_of_every_day(tokenizer):
    features = features_of(tokenizer)
    tokens, inputs = tokenizer.quantizer.encode_with_mistakes(features, 0.0)
    for found, expected in zip(tokens, tokenizer.quantizer.encode(features), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(inputs, tokenizer.teacher_inputs(tokens))


def test_inputs_see_the_mistakes_and_targets_undo_them(tokenizer):
    torch.manual_seed(0)
    quantizer, features = tokenizer.quantizer, features_of(tokenizer)
    plain = quantizer.encode(features)
    counted = {}
    steps = list(quantizer.steps(features, lambda tokens, k: counted.setdefault(k, torch.randint_like(tokens, 12))))
    wrong = [counted[k].view(len(features), -1) for k in range(SCHEDULE.num_scales)]
    torch.manual_seed(0)
    sums = list(quantizer.accumulate(wrong))
    for k, step in enumerate(steps):
        torch.testing.assert_close(step.f_hat_BChw, sums[k])
        if k:  # the target is the code nearest to what the wrong tokens before it left
            left = quantizer.at_scale(features - sums[k - 1], k).flatten(0, 1)
            assert torch.equal(step.tokens_N, quantizer.nearest(left, k))
    assert torch.equal(steps[0].tokens_N.view(64, -1), plain[0])
    assert not torch.equal(steps[1].tokens_N.view(64, -1), plain[1])


def test_so_many_are_mistaken_as_was_asked_for(tokenizer, monkeypatch):
    quantizer, features, shares = tokenizer.quantizer, features_of(tokenizer), []
    steps = type(quantizer).steps

    def watched(self, features, counted=None):
        def count(tokens, k):
            found = counted(tokens, k)
            shares.append((found != tokens).float().mean().item())
            return found

        return steps(self, features, count)

    monkeypatch.setattr(type(quantizer), "steps", watched)
    torch.manual_seed(0)
    for _ in range(20):
        quantizer.encode_with_mistakes(features, 0.3)
    by_scale = torch.tensor(shares).view(20, -1).mean(0)
    right_by_luck = 1 / len(quantizer.codebook)
    torch.testing.assert_close(by_scale, torch.full_like(by_scale, 0.3 * (1 - right_by_luck)), atol=0.03, rtol=0)


def test_only_training_makes_them(tokenizer):
    task, plain, labels = task_of(0.5, tokenizer), task_of(0.0, tokenizer), torch.zeros(64, dtype=torch.int64)
    for each in (task, plain):
        each.model.eval()
    losses = [each.predict(each.model, each.encoded.encoded_N, labels)[0] for each in (task, plain)]
    torch.testing.assert_close(*losses)
    task.model.train()
    torch.manual_seed(0)
    first = task.predict(task.model, task.encoded.encoded_N, labels)[0]
    assert not torch.allclose(first, task.predict(task.model, task.encoded.encoded_N, labels)[0])


def test_a_cache_holds_too_little_and_a_single_scale_too_few(tokenizer, tmp_path):
    write_cache(tokenizer, pictures(), tmp_path, progress=False)
    with pytest.raises(CacheError, match=r"mistaken 0.5 .* expected images, got"):
        task_of(0.5, tokenizer, TokenCache(tmp_path))
    with pytest.raises(ValueError, match="expected mistaken 0, got 0.5"):
        var_config(schedule=ScaleSchedule((4,)), mistaken=0.5)
