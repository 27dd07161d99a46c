"""The profile of a training run: real steps, and operations under the kinds that they belong to."""

import dataclasses

import pytest
from conftest import tokenizer_config, var_config
from test_train import TINY, blobs

from experiments.profile_run import kind_of, profile_steps
from minivar.models import VAR
from minivar.tokenizer import VQVAE
from minivar.training import TokenizerTask, VARTask


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::gelu_backward", "GELU, SiLU"),
        ("aten::mul", "all other"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "all other"),
    ],
)
def test_operations_have_kinds(operation, kind):
    assert kind_of(operation) == kind


def test_each_phase_spends_its_time_on_what_it_is_made_of():
    config = dataclasses.replace(TINY, epochs=20)
    tokenizer = VQVAE(tokenizer_config())
    found = {}
    for make in (lambda: TokenizerTask(tokenizer, blobs()), lambda: VARTask(VAR(var_config()), tokenizer, blobs())):
        task = make()  # the second freezes the tokenizer
        before = [parameter.clone() for parameter in task.model.parameters()]
        seconds, found[task.name] = profile_steps(task, config, 2)
        assert 0 < seconds < 60
        assert sum(found[task.name].values()) == pytest.approx(1)
        assert any((a != b).any() for a, b in zip(before, task.model.parameters(), strict=True))  # it has trained
    assert found["tokenizer"]["attention"] == 0 < found["var"]["attention"]
    assert found["var"]["matrix products"] > 0
    assert found["tokenizer"]["convolutions"] > found["var"]["convolutions"]  # the quantiser's, for the inputs
