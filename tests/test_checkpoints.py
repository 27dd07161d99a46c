"""Our own checkpoint files: round trips, damage, and a disk that runs full while saving."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from safetensors.torch import save_file

from minivar import checkpoints, files
from minivar.checkpoints import CheckpointError
from minivar.evaluation import ClassifierConfig, DigitClassifier, judges
from minivar.models import VAR
from minivar.scales import ScaleSchedule
from minivar.tokenizer import VQVAE

RECTANGULAR = ScaleSchedule(((1, 1), (1, 2), (2, 4)))
MODELS = {
    "VQVAE": lambda: VQVAE(tokenizer_config(beta=0.5, num_phi=2)),
    "VQVAE, rectangular": lambda: VQVAE(tokenizer_config(image_size=(8, 16), schedule=RECTANGULAR)),
    "VAR": lambda: VAR(var_config(drop_path=0.1)),
    "VAR, shared AdaLN": lambda: VAR(var_config(shared_adaln=True, schedule=RECTANGULAR)),
    "DigitClassifier": lambda: DigitClassifier(ClassifierConfig(width=8, features=16)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back_as_it_was(name, tmp_path):
    model = MODELS[name]()
    if hasattr(model, "quantizer"):
        model.quantizer.usage_KV.uniform_()
    path = tmp_path / "new" / "model.safetensors"
    checkpoints.save(model, path, note=[1, None, "two"], trained={"steps": 3})
    loaded, header = checkpoints.load(path, kinds={**checkpoints.KINDS, **judges.KINDS})
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert hash(loaded.config) == hash(model.config)  # tuples came back as tuples, all the way down
    assert not loaded.training
    assert header["note"] == [1, None, "two"]
    assert header["trained"] == {"steps": 3}
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_loaded_model_computes_what_the_saved_one_did(tokenizer, images, tmp_path):
    checkpoints.save(tokenizer, tmp_path / "model.safetensors")
    loaded, _ = checkpoints.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(images).reconstruction, tokenizer(images).reconstruction)


def test_saving_again_replaces_the_file_and_leaves_nothing_else(tokenizer, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(tokenizer, path, version=1)
    checkpoints.save(tokenizer, path, version=2)
    assert checkpoints.load(path)[1]["version"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


# What cannot be loaded --------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*none\.safetensors: expected a \.safetensors file"):
        checkpoints.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tokenizer, tmp_path, share):
    path = tmp_path / "model.safetensors"
    checkpoints.save(tokenizer, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a complete minivar checkpoint") as caught:
        checkpoints.load(path)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_refused(model, tmp_path):
    checkpoints.save(model, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors holds a VAR; expected VQVAE\."):
        checkpoints.load(tmp_path / "model.safetensors", "VQVAE")


def test_a_safetensors_file_of_someone_else_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"holds a None; expected VQVAE or .* or DiT\.",
    ):
        checkpoints.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("config", [None, {"depth": 2, "colour": "red"}, {"schedule": 3}, {"depth": 0}])
def test_a_header_without_a_fitting_configuration_is_refused(tmp_path, config):
    header = {"kind": "VAR"} | ({} if config is None else {"config": config})
    files.write_tensors(tmp_path / "odd.safetensors", {"a": torch.zeros(2)}, header)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors has no configuration that fits a VAR"):
        checkpoints.load(tmp_path / "odd.safetensors")


def test_entries_that_do_not_fit_are_named(model, tmp_path):
    state = model.state_dict()
    state["extra"] = state.pop("head.bias")
    state["head.weight"] = torch.zeros(16, 31)
    path, config = tmp_path / "model.safetensors", dataclasses.asdict(model.config)
    files.write_tensors(path, state, {"kind": "VAR", "config": config})
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(path)
    assert str(caught.value) == (
        f"The checkpoint {path} does not fit; missing: head.bias; unexpected: extra; "
        "of the wrong shape: head.weight has shape (16, 31), expected (16, 32)."
    )


# Pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_comes_back_with_the_header_of_the_transformer(tokenizer, model, tmp_path):
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    checkpoints.save(model, tmp_path / "var.safetensors", sampling={"cfg": 2.0})
    loaded_tokenizer, loaded_model, header = checkpoints.load_pair(tmp_path)
    assert loaded_tokenizer.config == tokenizer.config
    assert loaded_model.config == model.config
    assert header["sampling"] == {"cfg": 2.0}


@pytest.mark.parametrize(
    "other",
    [{"schedule": ScaleSchedule((1, 3, 4))}, {"codebook_size": 17}, {"code_dim": 5}],
    ids=["schedule", "codebook", "code"],
)
def test_a_pair_that_does_not_belong_together_is_refused(tokenizer, tmp_path, other):
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    checkpoints.save(VAR(var_config(**other)), tmp_path / "var.safetensors")
    with pytest.raises(CheckpointError, match=r"do not belong together: \(quantizer, grids, V, C\) is "):
        checkpoints.load_pair(tmp_path)


def test_a_missing_directory_or_half_a_pair_is_named(tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"No checkpoint directory at .*nowhere: expected one with tokenizer"):
        checkpoints.load_pair(tmp_path / "nowhere")
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*var\.safetensors"):
        checkpoints.load_pair(tmp_path)


# A full disk ------------------------------------------------------------------------------------------------------

# A limit on the size of files makes the operating system refuse to write on in the middle of a file, as a full disk
# does. Python ignores the signal that comes with it, so that write() fails.
FULL_DISK = """
import json, resource, sys
from pathlib import Path
import torch
from conftest import tokenizer_config
from minivar import checkpoints, files
from minivar.distributed import Ranks
from minivar.training.state import Parts, save_state
from minivar.tokenizer import VQVAE

torch.manual_seed(1)
model, path = VQVAE(tokenizer_config()), Path(sys.argv[1])
optimizer, scaler = torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
writers = {
    "model": lambda: checkpoints.save(model, path),
    "state": lambda: save_state(path, Parts({"model": (model, optimizer)}, {}, scaler), {}, 7, Ranks())(),
    "text": lambda: files.write_atomically(path, lambda temporary: temporary.write_text("x" * 100_000)),
}
errors = {}
for room in (0, 50_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for name, write in writers.items():
        try:
            write()
        except checkpoints.CheckpointError as error:
            errors[f"{name} {room}"] = str(error)
print(json.dumps(errors))
"""


def test_a_full_disk_leaves_the_last_checkpoint_untouched(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(wake(VQVAE(tokenizer_config())), path)
    before = path.read_bytes()
    assert len(before) > 60_000  # more than there is room for
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 6
    for message in errors.values():
        assert message.startswith(f"Could not write {path} (")
        assert message.endswith("what was there before is untouched.")
        assert "\n" not in message
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_prefix_alone_was_not_published():
    with pytest.raises(CheckpointError, match="The published VAR has AdaLN; got conditioning 'prefix'"):
        checkpoints.to_var(VQVAE(tokenizer_config()), VAR(var_config(conditioning="prefix")))
