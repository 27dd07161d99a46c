"""Faults of a whole run: bad input, full disks, damaged files, one bad image; always one sentence, nothing lost."""

import os
import resource
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import processes
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from safetensors.torch import save_file
from test_progress import Stream
from test_train import TINY, blobs, log_of

from minivar import checkpoints, cli, data, distributed, files, training
from minivar.distributed import Ranks
from minivar.models import VAR
from minivar.tokenizer import VQVAE
from minivar.training import TrainingError

# Four steps a phase on 128 digits, with checkpoints after 2 and 4.
SHORT = {"epochs": 1, "batch_size": 32, "log_every": 2, "checkpoint_every": 2}
SETTINGS = {"tokenizer.nets.base_channels": 8, "model.width": 48}
SETTINGS |= {f"{phase}.{key}": value for phase in ("tokenizer_train", "model_train") for key, value in SHORT.items()}


@pytest.fixture(autouse=True, scope="module")
def few_digits():
    with pytest.MonkeyPatch.context() as patch:
        whole = data.load_digits("train")
        few = data.ArraySet(whole.images[:128], whole.labels[:128], whole.class_names)
        patch.setattr("minivar.data.loading.load_digits", lambda split: few)
        yield


def command(out, preset: str = "digits-smoke", **settings: object) -> list[str]:
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in settings.items()}}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", "--preset", preset, "--out", str(out), *words]


def refused(capsys, argv: list[str], code: int = 2) -> str:
    """The one line that a command which fails ends with; progress bars may stand before it."""
    capsys.readouterr()
    assert cli.main([str(word) for word in argv]) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    *_, last = error.rstrip("\n").splitlines()
    assert last.startswith("minivar: ") and last.endswith(".")
    return last


@pytest.fixture(scope="module")
def finished(few_digits, tmp_path_factory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main(command(out)) == 0
    return out


@contextmanager
def after_step(number: int, do, task=training.TokenizerTask):
    """Call ``do`` once, in the middle of a run."""
    original = task.after_step

    def patched(self, step: int) -> None:
        original(self, step)
        if step == number:
            do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "after_step", patched)
        yield


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.fixture
def half(tmp_path, capsys) -> Path:
    """A run that Ctrl-C stopped in the fourth step of the tokenizer; its state is that after two."""
    out = tmp_path / "half"
    with after_step(3, interrupt):
        assert "the same command goes on from the last checkpoint" in refused(capsys, command(out), code=130)
    assert files.read_tensors(out / "tokenizer.state.safetensors")[1]["step"] == 2
    return out


# Configurations that do not go together ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_train__batch_size": 200}, "The dataset has 128 images, fewer than one batch of 200."),
        ({"model_train__accumulate": 3}, "A batch of 32 images must be a multiple of ranks x accumulate; got 1"),
        ({"model_train__ema": 1.0}, "ema must be a number in [0, 1); got 1.0"),
        ({"model_train__checkpoint_every": 3}, "checkpoint_every must be a multiple of log_every (2); got 3."),
        ({"model_train__precision": "half"}, "precision must be 'float32', 'tf32', 'bf16' or 'fp16'; got 'half'."),
    ],
)
def test_what_the_transformer_cannot_do_is_said_before_the_tokenizer_trains(capsys, tmp_path, settings, words):
    assert words in refused(capsys, command(tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(TrainingError, match=r"A batch of 16 images must be a multiple of .* got 3 ranks and accum"):
        training.check_config(TINY, Ranks(count=3), 96, None)


def test_the_folder_of_another_preset_is_refused(capsys, finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "run")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    codes = {"tokenizer__codebook_size": 64, "model__codebook_size": 64}
    for wrong in (command(out, "duel-var"), command(out, model__width=96), command(out, **codes)):
        message = refused(capsys, wrong)
        assert f"{out}/" in message and "belongs to a run with another configuration (" in message
        assert "choose another output folder, or the same configuration to resume" in message
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_transformer_beside_a_foreign_tokenizer_draws_nothing(capsys, tmp_path):
    checkpoints.save(VQVAE(tokenizer_config(codebook_size=64)), tmp_path / "tokenizer.safetensors")
    checkpoints.save(VAR(var_config()), tmp_path / "var.safetensors")
    message = refused(capsys, ["sample", "--checkpoint", tmp_path, "--out", tmp_path / "grid.png"])
    assert f"Tokenizer and transformer in {tmp_path} do not belong together" in message
    assert not (tmp_path / "grid.png").exists()


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTER_ADDR", None),
        ("MASTER_ADDR", "no-such-host.invalid"),
        ("MASTER_PORT", None),
        ("MASTER_PORT", "http"),
        ("WORLD_SIZE", None),
        ("WORLD_SIZE", "0"),
        ("RANK", "first"),
        ("RANK", "-1"),
        ("RANK", "2"),
        ("LOCAL_RANK", None),
    ],
)
def test_an_environment_that_torchrun_would_not_make_is_refused(capsys, tmp_path, monkeypatch, name, value):
    for key, text in {**TORCHRUN, name: value}.items():
        monkeypatch.delenv(key) if text is None and key in os.environ else None
        monkeypatch.setenv(key, text) if text is not None else None
    message = refused(capsys, command(tmp_path / "run"))
    assert "RANK is set, so this is one of several processes: expected numbers in RANK, WORLD_SIZE" in message
    assert f"{name}={value}" in message
    assert not (tmp_path / "run").exists()


def free_port() -> tuple[socket.socket, str]:
    """A socket that listens, and its port."""
    listener = socket.create_server(("", 0))
    return listener, str(listener.getsockname()[1])


@pytest.mark.parametrize("port", ["taken", "99999"])
def test_processes_that_cannot_meet_are_named(capsys, tmp_path, monkeypatch, port):
    listener, taken = free_port()
    port = taken if port == "taken" else port
    for key, text in {**TORCHRUN, "WORLD_SIZE": "1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(key, text)
    with listener:
        message = refused(capsys, command(tmp_path / "run"))
    assert f"Could not join the other processes: expected them at 127.0.0.1:{port}; got" in message


# Folders and disks that cannot be written to ----------------------------------------------------------------------


def test_an_output_folder_that_is_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("here first")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert f"A run needs a folder that can be written to; got {out} (" in refused(capsys, command(out))
    assert (tmp_path / "file").read_text() == "here first"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that even root cannot write to")
def test_an_output_folder_that_cannot_be_written_to_is_refused(capsys):
    assert "A run needs a folder that can be written to; got /proc (" in refused(capsys, command("/proc"))


def goes_on_as(capsys, out: Path, finished: Path) -> None:
    """The same command as ever ends where a run without faults does."""
    assert cli.main(command(out)) == 0
    assert log_of(out) == log_of(finished)
    for name in ("tokenizer", "var"):
        one, other = (files.read_tensors(folder / f"{name}.safetensors")[0] for folder in (out, finished))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


@contextmanager
def files_of_at_most(size: int):
    """The operating system refuses to write on, as on a full disk; Python ignores the signal that comes with it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_is_full_at_a_checkpoint_costs_nothing_but_time(capsys, half, finished):
    state = half / "tokenizer.state.safetensors"
    before = state.read_bytes()
    with files_of_at_most(len(before) // 2):
        message = refused(capsys, command(half))
    assert f"Could not write {state} (" in message and "what was there before is untouched" in message
    assert state.read_bytes() == before
    assert not list(half.glob(".*"))
    goes_on_as(capsys, half, finished)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of TensorBoard's writer
@pytest.mark.parametrize("what", ["metrics.jsonl", "tensorboard/tokenizer"])
def test_a_disk_that_is_full_for_a_log_stops_the_run_with_a_sentence(capsys, tmp_path, finished, what):
    out = tmp_path / "run"
    if what.startswith("tensorboard"):
        pytest.importorskip("tensorboard")

    def fill() -> None:
        file = out / what if (out / what).is_file() else next((out / what).iterdir())
        moved.append((file.rename(tmp_path / "moved"), file))
        file.symlink_to("/dev/full")

    moved = []
    with after_step(2, fill):  # the checkpoint after two steps is written, the entry after four is not
        message = refused(capsys, command(out))
    assert f"Could not write {out / what} ([Errno 28] No space left on device)" in message
    assert "the last checkpoint, if there is one, is kept, and the same command goes on from there" in message
    assert files.read_tensors(out / "tokenizer.state.safetensors")[1]["step"] == 2
    for aside, file in moved:
        aside.replace(file)
    goes_on_as(capsys, out, finished)


@pytest.mark.parametrize("name", ["metrics.jsonl", "tokenizer.png"])
def test_a_folder_in_the_place_of_a_file_is_named(capsys, tmp_path, name):
    (tmp_path / name).mkdir()
    assert f"Could not write {tmp_path / name} (" in refused(capsys, command(tmp_path))


def test_a_file_in_the_place_of_tensorboards_folder_is_named(capsys, tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").touch()
    assert f"Could not write {tmp_path / 'tensorboard' / 'tokenizer'} (" in refused(capsys, command(tmp_path))


# Damaged files ----------------------------------------------------------------------------------------------------


def cut(share: float):
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return damage


def flip(where: float):
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(len(content) * where)] ^= 0x10
        path.write_bytes(bytes(content))

    return damage


DAMAGE = {
    "emptied": cut(0),
    "halved": cut(0.5),
    "flipped in the middle": flip(0.5),
    "flipped at the end": flip(0.999),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_state_is_refused_and_left_as_it_is(capsys, half, kind):
    path = half / "tokenizer.state.safetensors"
    DAMAGE[kind](path)
    before = path.read_bytes()
    message = refused(capsys, command(half))
    assert str(path) in message
    assert ("was damaged after it was written" if "flipped" in kind else "is not a complete minivar") in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["tokenizer", "var"])
def test_a_flipped_bit_in_a_model_is_noticed(capsys, finished, tmp_path, name):
    for file in finished.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    flip(0.7)(tmp_path / f"{name}.safetensors")
    message = refused(capsys, ["sample", "--checkpoint", tmp_path, "--out", tmp_path / "grid.png"])
    assert f"{tmp_path / name}.safetensors was damaged after it was written: got content with the checksum" in message


def test_every_bit_of_a_small_file_counts(tmp_path):
    path = tmp_path / "small.safetensors"
    tensors = {"weight": torch.arange(3.0), "count": torch.tensor(7), "none": torch.zeros(0, 2)}
    files.write_tensors(path, tensors, {"step": 3, "name": "digits"})
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(checkpoints.CheckpointError):
            files.read_tensors(path)
    path.write_bytes(content)
    read, header = files.read_tensors(path)
    assert header == {"step": 3, "name": "digits"}
    assert all(torch.equal(read[key], value) for key, value in tensors.items())


SHIPPED = sorted((data.DATA_ROOT / "checkpoints").rglob("*.safetensors"))


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: str(path.relative_to(data.DATA_ROOT / "checkpoints")))
def test_a_flipped_bit_in_a_shipped_file_is_noticed(tmp_path, shipped):
    assert files.read_tensors(shipped)[0]
    path = Path(shutil.copy(shipped, tmp_path))
    flip(0.7)(path)
    with pytest.raises(checkpoints.CheckpointError, match="was damaged after it was written: got content "):
        files.read_tensors(path)


def test_nothing_is_drawn_from_damaged_shipped_weights(capsys, tmp_path):
    folder = shutil.copytree(data.DATA_ROOT / "checkpoints" / "digits", tmp_path / "digits")
    flip(0.5)(folder / "var.safetensors")
    message = refused(capsys, ["sample", "--checkpoint", folder, "--out", tmp_path / "grid.png"])
    assert f"{folder / 'var.safetensors'} was damaged after it was written" in message
    assert not (tmp_path / "grid.png").exists()


def test_a_file_from_before_the_checksum_is_refused_until_it_is_written_anew(tmp_path):
    path = tmp_path / "old.safetensors"
    save_file({"weight": torch.arange(3.0)}, path, metadata={"kind": '"VAR"'})
    with pytest.raises(checkpoints.CheckpointError, match=r"old\.safetensors has no checksum, expected one: .*\.$"):
        files.read_tensors(path)
    files.write_tensors(path, *files.read_tensors(path, verify=False))  # as the message says
    tensors, header = files.read_tensors(path)
    assert torch.equal(tensors["weight"], torch.arange(3.0)) and header == {"kind": "VAR"}


def test_a_model_in_the_place_of_a_state_is_refused(capsys, half, finished):
    shutil.copy(finished / "tokenizer.safetensors", half / "tokenizer.state.safetensors")
    message = refused(capsys, command(half))
    assert "tokenizer.state.safetensors is not the state of a run; expected step, run and ranks, got ['" in message


def test_a_state_without_one_of_its_tensors_is_refused(capsys, half):
    path = half / "tokenizer.state.safetensors"
    tensors, header = files.read_tensors(path)
    del tensors["model.quantizer.codebook"]
    files.write_tensors(path, tensors, header)
    message = refused(capsys, command(half))
    assert f"{path} does not fit; expected what this minivar writes, got: " in message
    assert '"quantizer.codebook"' in message


def test_a_damaged_log_stops_nothing(capsys, half, finished):
    log = half / "metrics.jsonl"
    assert len(log_of(half)) == 1
    log.write_bytes(b"\xff\x00 not json\n" + log.read_bytes() + b'{"phase": "tokenizer"')
    goes_on_as(capsys, half, finished)


# Shards, as FSDP writes them --------------------------------------------------------------------------------------


def sharded_run(out: Path, ranks: Ranks) -> dict:
    torch.manual_seed(0)
    task = training.VARTask(VAR(var_config()), wake(VQVAE(tokenizer_config())), blobs())
    return training.fit(task, TINY, out, progress=False, ranks=ranks)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """(folder of a finished run, its only process)."""
    listener, port = free_port()
    listener.close()
    out = tmp_path_factory.mktemp("shards") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for key, text in {**TORCHRUN, "WORLD_SIZE": "1", "MASTER_PORT": port}.items():
            patch.setenv(key, text)
        with distributed.join_ranks("cpu", "fsdp") as ranks:
            sharded_run(out, ranks)
            yield out, ranks


def rewrite(text: str):
    return lambda path: path.write_text(text)


@pytest.mark.filterwarnings("ignore")  # torch's own, about what is broken
@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("latest.json", rewrite("{"), "is damaged: expected JSON that names a folder beside it, got '{'."),
        ("latest.json", rewrite("[3]"), "expected JSON that names a folder beside it, got '[3]'."),
        ("latest.json", rewrite('{"folder": "step-1"}'), "expected JSON that names a folder beside it, got '{"),
        ("step-*/.metadata", Path.unlink, "Could not read the shards in"),
        ("step-*/.metadata", cut(0.5), ".metadata was damaged after it was written"),
        ("step-*/*.distcp", Path.unlink, "Could not read the shards in"),
        ("step-*/*.distcp", cut(0.5), "was damaged after it was written"),
        ("step-*/*.distcp", flip(0.5), "__0_0.distcp was damaged after it was written"),
    ],
)
def test_damaged_shards_are_refused(shards, tmp_path, file, damage, words):
    finished, ranks = shards
    out = shutil.copytree(finished, tmp_path / "run")
    assert sharded_run(out, ranks)["resumed_at"] == 12
    (path,) = (out / "var.state").glob(file)
    damage(path)
    with pytest.raises(ValueError) as error:
        sharded_run(out, ranks)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_disk_that_is_full_keeps_the_last_shards(shards, tmp_path):
    _, ranks = shards
    with after_step(6, interrupt, training.TokenTask), pytest.raises(KeyboardInterrupt):
        sharded_run(tmp_path, ranks)
    before = (tmp_path / "var.state" / "latest.json").read_text()
    with files_of_at_most(20_000), pytest.raises(ValueError, match="Could not write the shards in") as error:
        sharded_run(tmp_path, ranks)
    assert "\n" not in str(error.value)
    assert (tmp_path / "var.state" / "latest.json").read_text() == before
    assert sharded_run(tmp_path, ranks)["resumed_at"] == 4
    assert [path.name for path in (tmp_path / "var.state").glob("step-*")] == ["step-00000012"]


# One bad image ----------------------------------------------------------------------------------------------------


class OneBad(Stream):
    """Images that are read in an order of their own; number 30 has a pixel that is not a number."""

    def batch(self, index, epoch=0):
        images, labels = super().batch(index)
        images[index == 30, 0, 0, 0] = torch.nan
        return images, labels


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_batch_that_broke_a_run_can_be_looked_at(tmp_path, accumulate):
    torch.manual_seed(0)
    task = training.TokenizerTask(VQVAE(tokenizer_config()), OneBad())
    config = training.TrainConfig(**{**vars(TINY), "accumulate": accumulate})
    with pytest.raises(TrainingError, match=r"The numbers of the images in that batch are in .*not-finite\.safe"):
        training.fit(task, config, tmp_path, progress=False)
    tensors, header = files.read_tensors(tmp_path / "tokenizer.not-finite.safetensors")
    assert header["phase"] == "tokenizer" and header["epoch"] == 0
    assert torch.equal(tensors["index"], training.batch_indices(header["step"], 96, config, OneBad().order))
    images, _ = OneBad().batch(tensors["index"], header["epoch"])
    bad = images.isfinite().flatten(1).all(1).logical_not()
    assert tensors["index"][bad].tolist() == [30]


def break_as_rank(out: Path) -> None:
    with distributed.join_ranks("cpu", "ddp") as ranks:
        torch.manual_seed(0)
        task = training.TokenizerTask(VQVAE(tokenizer_config(num_phi=2)), OneBad())
        try:
            training.fit(task, TINY, out, progress=False, ranks=ranks)
        except training.TrainingError as error:
            print(error)


@pytest.mark.distributed
def test_on_several_ranks_the_whole_batch_is_kept(tmp_path):
    assert processes.run_ranks(2, break_as_rank, tmp_path / "run", said=tmp_path / "said") == [0, 0]
    for rank in (0, 1):
        assert "The loss of tokenizer became nan" in (tmp_path / f"said.{rank}").read_text()
    index = files.read_tensors(tmp_path / "run" / "tokenizer.not-finite.safetensors")[0]["index"]
    assert len(index) == TINY.batch_size and 30 in index.tolist()
