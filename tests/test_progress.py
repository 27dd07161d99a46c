"""What a person sees of a run: means in the log, pictures, and TensorBoard's files, read back."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image
from test_train import TINY, Breaking, Interrupted, blobs, log_of, tiny_preset

from minivar import sampling, training
from minivar.data import ImageSet
from minivar.models import GPT, VAR, GPTConfig
from minivar.tokenizer import VQVAE
from minivar.training.progress import Watch, read_log, rewind_log


def events_of(folder):
    """TensorBoard's own reading of a folder that a run wrote."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulators.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of twelve steps a phase, with checkpoints after 4, 8 and 12."""
    out, preset = tmp_path_factory.mktemp("run"), tiny_preset()
    tokenizer = training.train_tokenizer(preset, blobs(), out, progress=False)
    training.train_model(preset, tokenizer, blobs(), out, progress=False)
    return out


# Numbers ----------------------------------------------------------------------------------------------------------


def watch_of(path, first: int = 0, steps: int = 6) -> Watch:
    return Watch(
        "var", path, first, steps, dataclasses.replace(TINY, log_every=3, checkpoint_every=6), progress=False
    )


def test_an_entry_is_the_mean_since_the_last_one(tmp_path):
    watch = watch_of(tmp_path / "metrics.jsonl", steps=5)
    entries = {}
    for done in range(1, 6):
        stats = {"loss": torch.tensor(float(done)), "scale_losses": torch.tensor([done, 10.0 * done])}
        entries[done] = watch.step(done, stats)
    assert [done for done, entry in entries.items() if entry] == [3, 5]  # every third, and the last
    assert entries[3] == {"loss": 2.0, "scale_losses": [2.0, 20.0]}
    assert entries[5] == {"loss": 4.5, "scale_losses": [4.5, 45.0]}


def test_a_process_that_does_not_lead_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watch = watch_of(None)
    watch.write(3, {"loss": 1.0})
    watch.show(3, torch.zeros(2, 3, 1, 4, 4))
    watch.close()
    assert not list(tmp_path.iterdir())


def test_a_damaged_line_costs_that_line_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [{"phase": "var", "step": step, "loss": 1.0} for step in (2, 4, 6)] + [{"phase": "tokenizer", "step": 9}]
    lines = [json.dumps(entry).encode() for entry in good]
    path.write_bytes(b"\n".join([lines[0], b"\xff\xfe\x00", b"3", b'{"loss": 1}', *lines[1:], b'{"phase": "va']))
    assert read_log(path) == good
    rewind_log(path, "var", 4)  # entries after the checkpoint go, and so does the damage
    assert path.read_text() == "".join(json.dumps(entry) + "\n" for entry in good if entry["step"] != 6)
    assert read_log(tmp_path / "none.jsonl") == []


# TensorBoard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "lists"),
    [("tokenizer", ("usage", "perplexity", "scale_errors")), ("var", ("scale_losses", "scale_accuracies"))],
)
def test_tensorboard_has_every_number_of_the_log(finished, phase, lists):
    events, entries = events_of(finished / "tensorboard" / phase), log_of(finished, phase)
    expected = {}
    for entry in entries:
        step = entry.pop("step")
        assert entry.pop("phase") == phase
        for key, value in entry.items():
            assert isinstance(value, list) == (key in lists)
            for i, number in enumerate(value if isinstance(value, list) else [value]):
                tag = f"{phase}/{key}/{i + 1}" if isinstance(value, list) else f"{phase}/{key}"
                expected.setdefault(tag, []).append((step, pytest.approx(number)))
    assert f"{phase}/{lists[0]}/3" in expected and f"{phase}/loss" in expected
    assert {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]} == expected


@pytest.mark.parametrize("phase", ["tokenizer", "var"])
def test_tensorboard_has_the_pictures_of_every_checkpoint(finished, phase, tmp_path):
    events = events_of(finished / "tensorboard" / phase)
    assert events.Tags()["images"] == [f"{phase}/pictures"]
    shown = events.Images(f"{phase}/pictures")
    assert [event.step for event in shown] == [4, 8, 12]
    assert (shown[0].width, shown[0].height) == (10 * 17 + 1, 2 * 17 + 1)
    (tmp_path / "last.png").write_bytes(shown[-1].encoded_image_string)
    last, file = pixels(tmp_path / "last.png").astype(int), pixels(finished / f"{phase}.png").astype(int)
    assert np.abs(last - file).max() <= 1  # the two round differently


def test_a_resumed_run_has_each_step_once(tmp_path):
    with pytest.raises(Interrupted):
        training.train_tokenizer(tiny_preset(), Breaking(12), tmp_path, progress=False)
    seen = [event.step for event in events_of(tmp_path / "tensorboard/tokenizer").Scalars("tokenizer/loss")]
    assert seen == [2, 4, 6, 8, 10]  # what the killed run wrote is on disk, steps that will be done again included
    training.train_tokenizer(tiny_preset(), Breaking(math.inf), tmp_path, progress=False)
    events = events_of(tmp_path / "tensorboard/tokenizer")
    scalars = events.Scalars("tokenizer/loss")
    assert [event.step for event in scalars] == [2, 4, 6, 8, 10, 12]
    assert [event.value for event in scalars] == pytest.approx([entry["loss"] for entry in log_of(tmp_path)])
    assert [event.step for event in events.Images("tokenizer/pictures")] == [4, 8, 12]


def test_a_run_needs_no_tensorboard(tmp_path, monkeypatch, finished):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # an import then fails
    training.train_tokenizer(tiny_preset(), blobs(), tmp_path, progress=False)
    assert log_of(tmp_path) == log_of(finished, "tokenizer")
    assert np.array_equal(pixels(tmp_path / "tokenizer.png"), pixels(finished / "tokenizer.png"))
    assert not (tmp_path / "tensorboard").exists()


# Pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_leave_no_trace_in_training(tmp_path):
    """With dropped paths and noise from the global random state, and pictures after every second step or none."""
    models = []
    for every in (2, 1000):
        preset = tiny_preset(checkpoint_every=every)
        out = tmp_path / str(every)
        tokenizer = training.train_tokenizer(preset, Breaking(math.inf), out, progress=False)
        models.append((tokenizer, training.train_model(preset, tokenizer, blobs(), out, progress=False)))
    assert log_of(tmp_path / "2") == log_of(tmp_path / "1000")
    for one, other in zip(*models):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_the_tokenizer_shows_the_same_images_above_their_reconstructions(tokenizer):
    task, device = training.TokenizerTask(tokenizer, blobs()), torch.device("cpu")
    usage = tokenizer.quantizer.usage_KV.clone()
    pictures = task.pictures(device)
    assert pictures.shape == (2, 10, 1, 16, 16)
    assert pictures.min() >= 0 and pictures.max() <= 1
    known = {image.numpy().tobytes() for image in blobs().images}
    originals = (pictures[0] * 255).round().to(torch.uint8)
    assert len({image.numpy().tobytes() for image in originals} & known) == 10
    rebuilt = tokenizer.decode(tokenizer.encode(pictures[0] * 2 - 1))
    torch.testing.assert_close(pictures[1] * 2 - 1, rebuilt)
    assert torch.equal(training.TokenizerTask(tokenizer, blobs()).pictures(device), pictures)
    assert torch.equal(tokenizer.quantizer.usage_KV, usage)  # looking does not count as use


class Stream(ImageSet):
    """Images that have an order of their own; their labels are not known before they are read."""

    image_shape, class_names, fingerprint, pixels = (1, 16, 16), tuple("abcde"), 0, None

    def __init__(self) -> None:
        self.blobs, self.read = blobs(), []

    def __len__(self) -> int:
        return len(self.blobs)

    def order(self, size: int, generator: torch.Generator) -> torch.Tensor:
        """Two shards of 48 images, each from its beginning to its end."""
        return torch.arange(size).view(2, -1)[torch.randperm(2, generator=generator)].flatten()

    def batch(self, index, epoch=0):
        self.read.append(index.tolist())
        return self.blobs.batch(index)


def test_data_in_shards_shows_what_is_in_the_first(tmp_path):
    stream = Stream()
    torch.manual_seed(0)
    training.fit(training.TokenizerTask(VQVAE(tokenizer_config()), stream), TINY, tmp_path, progress=False)
    assert (tmp_path / "tokenizer.png").is_file()
    assert [index for index in stream.read if len(index) != 16] == [[*range(10)]]  # read once


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(5, [*range(5)] * 4), (10, [*range(10)] * 2), (1000, [*range(0, 1000, 100)] * 2), (12, [*range(12), *range(8)])],
)
def test_samples_show_the_classes_in_rotation(tokenizer, classes, expected):
    model = wake(VAR(var_config(num_classes=classes)))
    task = training.VARTask(model, tokenizer, blobs())
    state = torch.get_rng_state()
    pictures = task.pictures(torch.device("cpu"))
    assert pictures.shape == (2, 10, 1, 16, 16)
    drawn = sampling.sample(model, tokenizer, torch.tensor(expected), generator=torch.Generator().manual_seed(0))
    assert torch.equal(pictures.flatten(0, 1), drawn.images)
    assert torch.equal(torch.get_rng_state(), state)
    task.sampling = {"cfg": 4.0, "top_k": 2}
    assert not torch.equal(task.pictures(torch.device("cpu")), pictures)


def test_raster_models_and_recomputed_blocks_show_samples(tmp_path):
    torch.manual_seed(0)
    single = wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))
    gpt = GPT(GPTConfig(depth=2, width=16, heads=2, num_classes=5, codebook_size=16, grid=(4, 4), hidden=32))
    config = dataclasses.replace(TINY, recompute=True)
    training.fit(training.GPTTask(gpt, single, blobs()), config, tmp_path, progress=False)
    assert pixels(tmp_path / "gpt.png").shape == (2 * 17 + 1, 10 * 17 + 1, 3)
