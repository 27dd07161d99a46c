"""Pictures that form, in Python and on the command line, and the animations of the pages: small and reproducible."""

import io

import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from PIL import Image
from servers import GPT_CONFIG, PAIRS, SETTINGS
from test_cli import refused, run

from minivar import checkpoints, sampling
from minivar.book import animations
from minivar.models import GPT, VAR, DiT, DiTConfig
from minivar.tokenizer import VQVAE

IMAGE = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
TWO = torch.tensor([1, 3])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def frames_of(data: bytes) -> list[Image.Image]:
    picture, frames = Image.open(io.BytesIO(data)), []
    for i in range(picture.n_frames):
        picture.seek(i)
        frames.append(picture.convert("RGB"))
    return frames


@pytest.mark.parametrize(("name", "stages"), [("scales", 3), ("rows", 4)])
def test_a_picture_that_has_formed_is_the_samplers(name, stages):
    tokenizer, model = PAIRS[name]
    formed = sampling.forming(model, tokenizer, TWO, seeded(), **SETTINGS[name])
    drawn = sampling.generate(model, tokenizer, TWO, seeded(), **SETTINGS[name])
    assert len(formed) == stages and torch.allclose(formed[-1].images, drawn.images, atol=1e-5)
    assert [stage.passes for stage in formed] == ([1, 2, 3] if name == "scales" else [4, 8, 12, 16])
    assert formed[0].name == ("scale 1 of 3" if name == "scales" else "row 1 of 4")
    assert all(stage.images.shape == (2, 1, 16, 16) for stage in formed)


def test_what_has_no_tokens_is_grey_and_a_scale_is_the_whole_picture():
    tokenizer, model = PAIRS["rows"]
    formed = sampling.forming(model, tokenizer, TWO, seeded())
    for i, stage in enumerate(formed[:-1]):
        assert (stage.images[:, :, 4 * (i + 1) :] == 0.5).all() and not (
            stage.images[:, :, : 4 * (i + 1)] == 0.5
        ).all()
    tokenizer, model = PAIRS["scales"]
    formed, drawn = (f(model, tokenizer, TWO, generator=seeded()) for f in (sampling.forming, sampling.sample))
    pyramid = tokenizer.decode_pyramid(model.schedule.split(drawn.tokens))
    assert all(torch.allclose(a.images, (b + 1) / 2, atol=1e-5) for a, b in zip(formed, pyramid, strict=True))


def test_lanes_share_one_clock_of_passes():
    lanes = {name: sampling.forming(model, tokenizer, TWO, seeded()) for name, (tokenizer, model) in PAIRS.items()}
    animation = animations.side_by_side(lanes)
    # nothing, then passes 1, 2, 3 of the scales and 4, 8, 12, 16 of the rows; the finished picture comes first
    assert len(animation.frames) == 1 + 8 and animation.milliseconds[1:] == [200, 200, 200, 200, 800, 800, 800, 1500]
    assert "scales (3 stages) beside rows (4 stages)" in animation.alt and "after 16 passes" in animation.alt
    assert animation.frames[0].tobytes() == animation.frames[-1].tobytes()
    alone = animations.side_by_side({"rows": lanes["rows"]})
    assert alone.milliseconds[1:] == [500, 500, 500, 500, 1500]


def orders() -> animations.Animation:
    (tokenizer, model), (single, gpt) = PAIRS["scales"], PAIRS["rows"]
    return animations.raster_beside_next_scale((model, tokenizer), (gpt, single), label=2, seed=1)


def test_animations_are_small_and_say_what_they_show():
    free, null = torch.randn(2, 16, generator=seeded()).softmax(-1)
    made = [animations.f_hat_built(PAIRS["scales"][0], PAIRS["scales"][0].encode(IMAGE)), orders()]
    made.append(animations.guidance_moving(free, null, [0.0, 2.0], "title"))
    assert [len(animation.frames) for animation in made] == [5, 9, 2]
    for animation in made:
        for kind in ("GIF", "PNG"):
            data = animation.encoded(kind)
            shown = frames_of(data)
            assert len(data) < animations.MOST_BYTES and len(shown) == len(animation.frames)
            assert shown[0].getpixel((0, 0)) == (255, 255, 255)  # paper stays white
            assert len({frame.tobytes() for frame in shown}) >= len(shown) - 1  # it moves; a still ends and begins it
        bundle, metadata = animation._repr_mimebundle_()
        assert bundle["text/plain"] == metadata["image/png"]["alt"] == animation.alt
        assert animation.alt.startswith("Animation: ") and animation.alt.endswith(".")


def test_the_same_seed_gives_the_same_file():
    assert orders().encoded("GIF") == orders().encoded("GIF")


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_every_frame_comes_out_as_it_went_in_though_files_hold_only_what_changed(kind):
    """Pictures of all 256 greys: a GIF whose palette leaves no colour for "as before" shows frames through others."""
    full = torch.rand(5, 1, 28, 28, generator=seeded())
    rows = [sampling.Stage(full.clone(), 7 * row, f"row {row} of 7") for row in range(1, 8)]
    for row, stage in enumerate(rows, start=1):
        stage.images[:, :, 4 * row :] = 0.5
    scales = [sampling.Stage(full.roll(k, 0), k, f"scale {k} of 4") for k in range(1, 5)]
    animation = animations.side_by_side({"next scale": scales, "raster order": rows})
    for before, after in zip(animation.frames, frames_of(animation.encoded(kind)), strict=True):
        off = torch.tensor(bytearray(before.tobytes())).int() - torch.tensor(bytearray(after.tobytes())).int()
        assert off.abs().max() <= 2


def test_a_palette_keeps_what_colours_it_can():
    few, many = (torch.arange(n) * 16777216 // n for n in (200, 5000))
    for colours in (few, many):
        rgb = torch.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).to(torch.uint8)[None].numpy()
        (flat,) = animations.with_one_palette([Image.fromarray(rgb)])
        off = torch.tensor(bytearray(flat.convert("RGB").tobytes())).int() - torch.tensor(rgb).flatten().int()
        assert off.abs().max() == 0 if len(colours) == 200 else off.abs().float().mean() < 30


def test_guidance_that_is_shown_is_the_package_s():
    free, null = torch.tensor([0.6, 0.38, 0.02]), torch.tensor([0.5, 0.4998, 0.0002])
    animation = animations.guidance_moving(free, null, [0.0, 0.5, 1.0], "title")
    assert "the code of rank 1 leads, then that of rank 3" in animation.alt  # as in chapter 07


def test_an_animation_needs_frames_and_one_picture():
    with pytest.raises(ValueError, match=r"the tokens of one image, \(1, 4, 16\) of them; got \[\(3, 1\)"):
        animations.f_hat_built(PAIRS["scales"][0], PAIRS["scales"][0].encode(IMAGE.expand(3, -1, -1, -1)))
    with pytest.raises(ValueError, match="got 0 and 0"):
        animations.Animation([], [], "nothing")


# minivar sample --gif ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two pairs of five classes, next scale and raster, a pair of two classes, and one of a DiT."""
    parent = tmp_path_factory.mktemp("pairs")
    single = wake(VQVAE(tokenizer_config(quantizer="single", schedule=None)))
    several = wake(VQVAE(tokenizer_config()))
    dit = DiT(DiTConfig(depth=1, width=32, heads=2, input_size=4, channels=4, num_classes=5))
    for name, tokenizer, model, file in (
        ("scales", several, wake(VAR(var_config())), "var"),
        ("rows", single, wake(GPT(GPT_CONFIG)), "gpt"),
        ("few", several, wake(VAR(var_config(num_classes=2))), "var"),
        ("dit", several, wake(dit), "dit"),
    ):
        checkpoints.save(tokenizer, parent / name / "tokenizer.safetensors")
        checkpoints.save(model, parent / name / f"{file}.safetensors", sampling={})
    return parent


def sample(folders, tmp_path, name, *options) -> tuple:
    common = ("--classes", "0-4", "--count", 3, "--out", tmp_path / "grid.png")
    return ("sample", "--checkpoint", folders / name, *common, *options)


@pytest.mark.parametrize(("name", "stages"), [("scales", 3), ("rows", 4)])
def test_the_gif_shows_every_scale_or_row_and_ends_with_the_grids_pictures(capsys, folders, tmp_path, name, stages):
    gif = tmp_path / "new" / "forming.gif"
    text = run(capsys, *sample(folders, tmp_path, name, "--gif", gif, "--npz", tmp_path / "s.npz"))
    assert f"The first 3 as they form: {gif}" in text
    picture = Image.open(gif)
    assert picture.format == "GIF" and picture.n_frames == 1 + 1 + stages and picture.info["loop"] == 0
    # each picture of the grid is enlarged five times, with a line between
    grid, last = Image.open(tmp_path / "grid.png").convert("L"), frames_of(gif.read_bytes())[-1].convert("L")
    for column in range(3):
        for x, y in ((0, 0), (7, 3), (15, 15)):
            shown = last.getpixel((14 + column * 82 + 5 * x + 2, 44 + 5 * y + 2))
            assert abs(shown - grid.getpixel((1 + column * 17 + x, 1 + y))) <= 8  # of a palette of 256


def test_a_second_model_forms_beside_the_first(capsys, folders, tmp_path):
    one, two = tmp_path / "one.gif", tmp_path / "two.gif"
    run(capsys, *sample(folders, tmp_path, "scales", "--gif", one))
    run(capsys, *sample(folders, tmp_path, "scales", "--gif", two, "--beside", folders / "rows"))
    alone, both = (frames_of(path.read_bytes()) for path in (one, two))
    assert both[0].width == 2 * alone[0].width - 14 and both[0].height == alone[0].height
    assert len(both) == 1 + 8
    run(capsys, *sample(folders, tmp_path, "rows", "--gif", two, "--beside", folders / "rows"))
    left, right = (frames_of(two.read_bytes())[-1].crop((x, 44, x + 244, 124)) for x in (14, 14 + 244 + 14))
    assert left.tobytes() == right.tobytes()  # the same model and seed


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("scales", ["--gif", "a.png"], "expected one that ends in .gif"),
        ("scales", ["--beside", "{rows}"], "--beside is for --gif; got"),
        ("scales", ["--gif", "a.gif", "--scales", "2"], "drawn in full, and all of them; got --scales"),
        ("scales", ["--gif", "a.gif", "--accept", "0.5"], "drawn in full, and all of them; got --accept"),
        ("scales", ["--gif", "a.gif", "--beside", "nowhere"], "nowhere"),
        ("scales", ["--gif", "a.gif", "--beside", "{few}"], "has the classes 0..1; got class 2 to draw"),
        ("scales", ["--gif", "a.gif", "--beside", "{dit}"], "expected VAR or GPT; got a DiT"),
        ("dit", ["--gif", "a.gif"], "expected VAR or GPT; got a DiT"),
        ("scales", ["--gif", "a.gif", "--evaluator", "a.npz"], "--evaluator draws all classes into one file"),
    ],
)
def test_what_cannot_form_is_refused_in_one_sentence(capsys, folders, tmp_path, monkeypatch, name, options, words):
    monkeypatch.chdir(tmp_path)
    names = {each: folders / each for each in ("rows", "few", "dit")}
    assert words in refused(capsys, *sample(folders, tmp_path, name, *(option.format(**names) for option in options)))
    assert not (tmp_path / "grid.png").exists() and not (tmp_path / "a.gif").exists()
