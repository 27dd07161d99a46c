"""``minivar edit``: what it writes, and that bad input costs a sentence and no file."""

import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image

from minivar import checkpoints, cli, data, sampling
from minivar.models import GPT, VAR, DiT, DiTConfig, GPTConfig
from minivar.tokenizer import VQVAE, NetConfig

COLOUR = NetConfig(base_channels=8, multipliers=(1, 2, 2), res_blocks=1, attention=False, groups=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Untrained pairs for 16 x 16 pixels, grey and in colour, and for raster order; a picture and masks."""
    folder = tmp_path_factory.mktemp("editing")
    single = {"quantizer": "single", "schedule": None}
    gpt = GPTConfig(depth=2, width=32, heads=2, grid=(4, 4), codebook_size=16, num_classes=5)
    pairs = {
        "var": (VQVAE(tokenizer_config()), VAR(var_config())),
        "colour": (VQVAE(tokenizer_config(nets=COLOUR)), VAR(var_config())),
        "gpt": (VQVAE(tokenizer_config(**single)), GPT(gpt)),
    }
    for name, (tokenizer, model) in pairs.items():
        checkpoints.save(wake(tokenizer), folder / name / "tokenizer.safetensors")
        file = f"{type(model).__name__.lower()}.safetensors"
        settings = {"cfg": 2.0, "top_k": 12, "top_p": 0.9}
        checkpoints.save(wake(model), folder / name / file, preset="tiny", sampling=settings)
    dit = DiT(DiTConfig(depth=1, width=16, heads=2, channels=1, input_size=16, patch=4, num_classes=5, latents=False))
    checkpoints.save(wake(dit), folder / "dit" / "dit.safetensors")
    numbers = np.random.default_rng(0)
    Image.fromarray(numbers.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "in.png")
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[9:, 3:] = 255
    for name, pixels in {"mask": mask, "black": mask * 0, "white": mask * 0 + 255, "small": mask[:8]}.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "text.png").write_text("no picture")
    return folder


def edit(capsys, folder, out, *options: object, pair: str = "var") -> dict[str, np.ndarray]:
    """What a command that succeeds keeps: its arrays, and ``row``, the written picture in 8 bits."""
    argv = ["edit", "--checkpoint", folder / pair, "--image", folder / "in.png", "--out", out / "row.png"]
    assert cli.main([str(word) for word in [*argv, "--npz", out / "arrays.npz", *options]]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and str(out / "row.png") in captured.out
    with np.load(out / "arrays.npz", allow_pickle=False) as arrays, Image.open(out / "row.png") as row:
        return {**{name: arrays[name] for name in arrays.files}, "row": np.asarray(row.convert("RGB"))}


def tiles(row: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """The pictures of a row, between lines of one pixel."""
    count = (row.shape[1] - 1) // (width + 1)
    return [row[1 : 1 + height, 1 + n * (width + 1) :][:, :width] for n in range(count)]


@pytest.mark.parametrize("pair", ["var", "colour", "gpt"])
def test_the_row_shows_the_picture_the_mask_and_samples_in_which_every_kept_byte_is_as_given(
    capsys, folder, tmp_path, pair
):
    options = ("--mask", folder / "mask.png", "--count", 3, "--feather", 2)
    found = edit(capsys, folder, tmp_path, *options, pair=pair)
    picture = data.read_picture(folder / "in.png", 3 if pair == "colour" else 1, (16, 16))
    given = data.to_uint8(picture).expand(1, 3, -1, -1)[0].permute(1, 2, 0).numpy()
    shown, mask, *samples = tiles(found["row"], 16, 16)
    assert np.array_equal(shown, given) and len(samples) == 3
    filled = np.zeros((16, 16), dtype=bool)
    filled[9:, 3:] = True
    assert np.array_equal(mask, np.repeat(filled[..., None], 3, -1) * 255) and np.array_equal(found["keep"], ~filled)
    for sample in samples:
        assert np.array_equal(sample[~filled], given[~filled])
        assert (sample[filled] != given[filled]).any()
    assert found["images"].shape == ((3, 3, 16, 16) if pair == "colour" else (3, 16, 16))
    assert np.array_equal(found["images"][..., ~filled][0], (picture.squeeze().numpy() + 1)[..., ~filled] / 2)
    assert not np.array_equal(found["images"][0], found["images"][1])


def test_the_same_is_drawn_by_the_library(capsys, folder, tmp_path):
    options = ("--box", "2,3,9,8", "--classes", "1,3-4", "--count", 5, "--seed", 7, "--feather", 1, "--passes", 3)
    found = edit(capsys, folder, tmp_path, *options, "--cfg", 3.0, "--top-k", 0)
    assert found["labels"].tolist() == [1, 3, 4, 1, 3]  # in rotation
    tokenizer, model, _ = checkpoints.load_pair(folder / "var")
    images = data.read_picture(folder / "in.png", 1, (16, 16)).expand(5, -1, -1, -1)
    keep, labels = data.box_mask((16, 16), 2, 3, 9, 8), torch.tensor(found["labels"])
    how = {"cfg": 3.0, "top_k": 0, "top_p": 0.9, "generator": torch.Generator().manual_seed(7)}
    pair = sampling.packed(model), sampling.packed(tokenizer)
    expected = sampling.inpaint(*pair, images, labels, keep, 1, 3, **how).images
    assert np.array_equal(found["images"], expected.squeeze(1).numpy())


def test_a_seed_repeats_itself_and_without_classes_the_null_class_is_drawn(capsys, folder, tmp_path):
    options = ("--brush", "3,9,9,13", "--radius", 2.2)
    first, again, other = (edit(capsys, folder, tmp_path, *options, "--seed", seed) for seed in (1, 1, 2))
    assert first["labels"].tolist() == [5] * 4
    assert torch.equal(torch.from_numpy(first["keep"]), data.brush_mask((16, 16), [(3, 9), (9, 13)], 2.2))
    assert np.array_equal(first["images"], again["images"]) and not np.array_equal(first["images"], other["images"])


def test_out_painting_makes_a_larger_picture_around_the_given_one(capsys, folder, tmp_path):
    found = edit(capsys, folder, tmp_path, "--outpaint", "left=5,bottom=12", "--count", 2, pair="colour")
    assert found["images"].shape == (2, 3, 28, 21) and found["keep"].sum() == 256
    with Image.open(folder / "in.png") as picture:
        given = np.asarray(picture)
    shown, mask, *samples = tiles(found["row"], 28, 21)
    for tile in (shown, *samples):
        assert np.array_equal(tile[:16, 5:], given)
    assert (shown[16:] == 128).all() and (mask[16:] == 255).all() and (mask[:16, 5:] == 0).all()
    assert len({sample[16:].tobytes() for sample in (shown, *samples)}) == 3


def test_picture_and_mask_of_another_size_are_resized_where_that_is_asked_for(capsys, folder, tmp_path):
    Image.new("RGB", (40, 32), (51, 51, 51)).save(tmp_path / "large.png")
    options = ("--image", tmp_path / "large.png", "--mask", tmp_path / "mask.png", "--resize")
    mask = np.zeros((8, 16), dtype=np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    found = edit(capsys, folder, tmp_path, *options)
    assert found["keep"].tolist() == [[True] * 16] * 8 + [[False] * 16] * 8
    assert np.allclose(found["images"][:, :8], 0.2, atol=1e-6)


MASK = ("--mask", "{folder}/mask.png")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mask", "{folder}/small.png"), "small.png has 8 x 16 pixels (height x width); expected 16 x 16."),
        (
            ("--mask", "{folder}/black.png"),
            "black.png has nothing to fill: expected some pixels to fill and some that",
        ),
        (("--mask", "{folder}/white.png"), "white.png has nothing that stays"),
        (("--mask", "{folder}/text.png"), "text.png is no picture (cannot identify image file"),
        (("--mask", "{folder}/none.png"), "none.png is no picture ([Errno 2] No such file or directory"),
        ((*MASK, "--image", "{folder}/small.png"), "small.png has 8 x 16 pixels (height x width); expected 16 x 16."),
        ((*MASK, "--image", "{folder}/text.png"), "text.png is no picture"),
        (("--box", "1,2,3"), "--box takes whole numbers, TOP,LEFT,HEIGHT,WIDTH; got '1,2,3'."),
        (("--box", "1,2,x,4"), "--box takes whole numbers, TOP,LEFT,HEIGHT,WIDTH; got '1,2,x,4'."),
        (("--box", "1,2,3,15"), "A box to fill lies within the picture, 16 x 16 pixels"),
        (("--box", "0,0,16,16"), "The mask has nothing that stays"),
        (("--brush", "1,2,3"), "--brush takes whole numbers, ROW,COLUMN,...; got '1,2,3'."),
        (("--brush", "1,2", "--radius", "0"), "at least one point and a radius above 0; got 1 and 0.0."),
        (("--brush", "99,99"), "The mask has nothing to fill"),
        (
            ("--outpaint", "left"),
            "--outpaint takes each side once, with 1 to 16 pixels, as in left=8,top=4; got 'left'",
        ),
        (("--outpaint", "left=2,left=3"), "takes each side once"),
        (("--outpaint", "up=2"), "as in left=8,top=4; got 'up=2'."),
        (("--outpaint", "left=17"), "with 1 to 16 pixels"),
        ((*MASK, "--classes", "5"), "Classes must lie in 0..4; got '5'."),
        ((*MASK, "--count", "0"), "--count must be at least 1; got 0."),
        ((*MASK, "--seed", "-1"), "--seed must be at least 0; got -1."),
        ((*MASK, "--feather", "17"), "--feather must be at most 16; got 17."),
        ((*MASK, "--passes", "0"), "--passes must be at least 1; got 0."),
        ((*MASK, "--top-p", "2"), "top_p in [0, 1]"),
        ((*MASK, "--checkpoint", "{folder}/dit"), "expected VAR, GPT or MaskGIT; got a DiT."),
        ((*MASK, "--checkpoint", "{folder}/nowhere"), "No checkpoint directory at"),
        ((*MASK, "--out", "{out}/row.txt"), "is no name for a picture"),
    ],
    ids=lambda value: "",
)
def test_bad_input_costs_a_sentence_and_nothing_is_written(capsys, folder, tmp_path, options, said):
    (tmp_path / "row.png").write_bytes(b"from before")
    argv = ["edit", "--checkpoint", "{folder}/var", "--image", "{folder}/in.png", "--out", "{out}/row.png", *options]
    assert cli.main([word.format(folder=folder, out=tmp_path) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("minivar: ") and captured.err.count("\n") == 1
    assert said in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["row.png"]
    assert (tmp_path / "row.png").read_bytes() == b"from before"


@pytest.mark.parametrize("options", [(), (*MASK, "--box", "1,1,2,2")], ids=["none", "two"])
def test_exactly_one_way_to_say_what_is_filled_is_asked_for(capsys, folder, tmp_path, options):
    argv = ["edit", "--image", f"{folder}/in.png", "--out", f"{tmp_path}/row.png", *options]
    with pytest.raises(SystemExit) as caught:
        cli.main([word.format(folder=folder) for word in argv])
    assert caught.value.code == 2 and "--mask" in capsys.readouterr().err and not list(tmp_path.iterdir())
