"""What needs no vLLM: names of weights, the exported folder, the model's mathematics on stubs of vLLM's layers."""

import json
from types import SimpleNamespace

import fake_vllm
import pytest
import torch
from minivar_vllm.export import export, main
from minivar_vllm.weights import placed

from minivar import checkpoints
from minivar.files import config_from_dict
from minivar.models import GPT, GPTConfig


@pytest.mark.parametrize("backwards", [False, True])
def test_every_weight_has_one_place(gpt, backwards):
    state = gpt.state_dict()
    found = {(name, half): tensor for name, half, tensor in placed(sorted(state.items(), reverse=backwards))}
    assert torch.equal(found.pop(("embed.weight", None)), torch.cat([gpt.token_embed.weight, gpt.class_embed.weight]))
    for i, block in enumerate(gpt.blocks):
        assert torch.equal(found.pop((f"blocks.{i}.mlp.gate_up.weight", 0)), block.mlp.w1.weight)
        assert torch.equal(found.pop((f"blocks.{i}.mlp.gate_up.weight", 1)), block.mlp.w3.weight)
    assert all(half is None and torch.equal(tensor, state.pop(name)) for (name, half), tensor in found.items())
    left = [name for name in state if "embed" not in name and ".w1." not in name and ".w3." not in name]
    assert not left


def test_weights_without_classes_are_refused(gpt):
    state = {name: tensor for name, tensor in gpt.state_dict().items() if name != "class_embed.weight"}
    with pytest.raises(ValueError, match="class_embed.weight is missing"):
        list(placed(state.items()))


def test_exported_folder_is_the_same_gpt(gpt, tmp_path):
    export(gpt, tmp_path / "folder", guidance=2)
    again, _ = checkpoints.load(tmp_path / "folder/model.safetensors", "GPT")
    assert again.config == gpt.config
    for name, tensor in gpt.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    about = json.loads((tmp_path / "folder/config.json").read_text())
    assert (about["architectures"], about["model_type"], about["guidance"]) == (
        ["MinivarForCausalLM"],
        "minivar_gpt",
        2,
    )
    assert config_from_dict(GPTConfig, about["minivar"]) == gpt.config


def test_a_gpt_without_a_grid_is_given_one(tmp_path):
    gpt = GPT(GPTConfig(depth=1, width=16, heads=2, grid=None, codebook_size=8, num_classes=2, hidden=8))
    with pytest.raises(ValueError, match="Expected a grid"):
        export(gpt, tmp_path)
    export(gpt, tmp_path, grid=(4, 6))
    assert json.loads((tmp_path / "config.json").read_text())["minivar"]["grid"] == [4, 6]


@pytest.mark.parametrize(
    ("config", "own", "message"),
    [
        ({"style": "gpt2"}, {}, "style gpt2"),
        ({"caption_tokens": 3, "caption_dim": 8}, {}, "3 caption tokens"),
        ({}, {"guidance": 0.5}, "got 0.5"),
        ({}, {"grid": (3, 3)}, r"got \(3, 3\) for \(2, 2\)"),
    ],
)
def test_what_the_plugin_cannot_serve_is_refused(tmp_path, config, own, message):
    gpt = GPT(GPTConfig(**{"depth": 1, "width": 16, "heads": 2, "grid": (2, 2), "codebook_size": 8, **config}))
    with pytest.raises(ValueError, match=message):
        export(gpt, tmp_path, **own)
    assert not list(tmp_path.iterdir())


def test_the_command(gpt, tmp_path, capsys):
    checkpoints.save(gpt, tmp_path / "gpt.safetensors")
    main([str(tmp_path / "gpt.safetensors"), str(tmp_path / "folder"), "--guidance", "1.5"])
    assert "Wrote" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nothing.safetensors"), str(tmp_path / "folder")])
    assert "No checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_on_stubs_of_the_layers(gpt, guided_logits, monkeypatch, guidance, dtype):
    fake_vllm.install(monkeypatch)
    from minivar_vllm.config import MinivarConfig
    from minivar_vllm.model import MinivarForCausalLM

    config = MinivarConfig({**vars(gpt.config), "grid": list(gpt.config.grid)}, guidance)
    vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(hf_config=config), quant_config=None, cache_config=None
    )
    model = MinivarForCausalLM(vllm_config=vllm_config)
    assert model.load_weights(gpt.state_dict().items()) == set(dict(model.named_parameters()))
    gpt, model = gpt.to(dtype), model.to(dtype)
    # two pictures, one with all its tokens but the last, one that has only begun, in one batch as vLLM has it
    torch.manual_seed(1)
    labels, tokens = torch.tensor([4, 0]), torch.randint(50, (2, 14))
    lengths = [15, 4]
    ids = torch.cat([torch.cat([50 + labels[i : i + 1], tokens[i, : n - 1]]) for i, n in enumerate(lengths)])
    monkeypatch.setattr(fake_vllm, "LENGTHS", lengths)
    with torch.no_grad():
        hidden = model(ids, torch.cat([torch.arange(n) for n in lengths]))
        logits = model.compute_logits(hidden)
    assert logits.shape == (19, 58) and logits.dtype == torch.float32
    assert bool((logits[:, 50:] == -torch.inf).all())
    expected = guided_logits(gpt, labels, tokens, guidance)
    torch.testing.assert_close(logits[:15, :50], expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[15:, :50], expected[1, :4], atol=1e-4, rtol=0)
