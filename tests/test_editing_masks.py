"""Masks in pixels: boxes, strokes of a brush and painted files, what is read of them and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from minivar import data


def write(path, pixels) -> str:
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)
    return str(path)


# Boxes and strokes ------------------------------------------------------------------------------------------------


def test_a_box_is_filled_and_nothing_else():
    keep = data.box_mask((5, 6), 1, 2, 3, 4)
    filled = {(row, column) for row in (1, 2, 3) for column in (2, 3, 4, 5)}
    assert keep.dtype == torch.bool and {tuple(cell) for cell in (~keep).nonzero().tolist()} == filled


@pytest.mark.parametrize(
    "box", [(-1, 0, 2, 2), (0, -1, 2, 2), (0, 0, 0, 2), (0, 0, 2, 0), (4, 0, 2, 2), (0, 5, 2, 2)]
)
def test_a_box_that_leaves_the_picture_is_refused(box):
    said = rf"within the picture, 5 x 6 pixels \(height x width\); got top {box[0]}, left {box[1]}, height {box[2]}"
    with pytest.raises(data.DataError, match=said):
        data.box_mask((5, 6), *box)


@pytest.mark.parametrize(
    "points", [[(4, 5)], [(1, 2), (8, 3)], [(0, 0), (3, 9), (11, 1)], [(2, 2), (2, 2)], [(5, 1), (5, 12)]]
)
@pytest.mark.parametrize("radius", [0.5, 2.2])
def test_a_brush_fills_all_within_its_radius_of_the_lines_it_is_drawn_along(points, radius):
    keep = data.brush_mask((12, 14), points, radius)
    ends = points[1:] or points
    along = [np.linspace(a, b, 2001) for a, b in zip(points, ends)]
    path = np.concatenate(along)  # dense enough to be the line
    pixels = np.stack(np.meshgrid(np.arange(12), np.arange(14), indexing="ij"), -1).reshape(-1, 1, 2)
    distance = np.linalg.norm(pixels - path, axis=-1).min(1).reshape(12, 14)
    clear = np.abs(distance - radius) > 1e-3  # at the very rim rounding decides
    assert np.array_equal(keep.numpy()[clear], (distance > radius)[clear]) and clear.mean() > 0.9


@pytest.mark.parametrize(("points", "radius"), [([], 2), ([(1, 1)], 0), ([(1, 1)], -1), ([(1, 1)], float("nan"))])
def test_a_brush_without_a_point_or_a_radius_is_refused(points, radius):
    with pytest.raises(data.DataError, match=rf"at least one point and a radius above 0; got {len(points)} and"):
        data.brush_mask((12, 14), points, radius)


# Files ------------------------------------------------------------------------------------------------------------


def test_white_in_a_file_is_filled_and_black_stays(tmp_path):
    pixels = np.array([[0, 255, 127, 128], [255, 0, 0, 200]])
    keep = data.read_mask(write(tmp_path / "mask.png", pixels), (2, 4))
    assert keep.tolist() == [[True, False, True, False], [False, True, True, False]]
    colour = np.repeat(pixels[..., None], 3, axis=-1)
    assert torch.equal(data.read_mask(write(tmp_path / "colour.png", colour), (2, 4)), keep)


def test_a_mask_of_another_size_is_refused_unless_it_may_be_resized(tmp_path):
    path = write(tmp_path / "mask.png", np.repeat(np.repeat([[0, 255], [255, 0]], 4, 0), 4, 1))
    with pytest.raises(data.DataError, match=r"has 8 x 8 pixels \(height x width\); expected 8 x 6\."):
        data.read_mask(path, (8, 6))
    assert data.read_mask(path, (2, 2), resize=True).tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(("value", "said"), [(0, "nothing to fill"), (255, "nothing that stays")])
def test_a_mask_that_fills_nothing_or_everything_is_refused(tmp_path, value, said):
    path = write(tmp_path / "mask.png", np.full((3, 3), value))
    with pytest.raises(
        data.DataError, match=rf"The mask .*mask.png has {said}: expected some pixels to fill and some"
    ):
        data.read_mask(path, (3, 3))


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    (tmp_path / "mask.png").write_text("white")
    for name in ("mask.png", "nowhere.png"):
        for read in (lambda path: data.read_mask(path, (3, 3)), lambda path: data.read_picture(path, 1, (3, 3))):
            with pytest.raises(
                data.DataError, match=rf"{name} is no picture \(.*\): expected one that can be opened"
            ):
                read(tmp_path / name)


def test_a_picture_comes_back_byte_for_byte(tmp_path):
    values = np.arange(256).reshape(16, 16)
    picture = data.read_picture(write(tmp_path / "grey.png", values), 1, (16, 16))
    assert picture.shape == (1, 1, 16, 16) and picture.dtype == torch.float32
    assert np.array_equal(data.to_uint8(picture)[0, 0].numpy(), values)
    colour = np.stack([values, values.T, 255 - values], -1)
    picture = data.read_picture(write(tmp_path / "colour.png", colour), 3, (16, 16))
    assert np.array_equal(data.to_uint8(picture)[0].permute(1, 2, 0).numpy(), colour)


def test_a_picture_of_another_size_is_refused_unless_it_may_be_resized(tmp_path):
    path = write(tmp_path / "picture.png", np.full((4, 8), 51))
    with pytest.raises(data.DataError, match=r"has 4 x 8 pixels \(height x width\); expected 6 x 5\."):
        data.read_picture(path, 3, (6, 5))
    resized = data.read_picture(path, 3, (6, 5), resize=True)
    assert resized.shape == (1, 3, 6, 5) and torch.allclose(resized, torch.tensor(51 / 127.5 - 1), atol=1e-6)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (torch.ones(3, 4), r"bool \(3, 4\), as high and wide as the picture; got torch.float32 \(3, 4\)"),
        (torch.ones(4, 3, dtype=torch.bool), r"got torch.bool \(4, 3\)"),
        (torch.ones(3, 4, dtype=torch.bool), "nothing to fill"),
        (torch.zeros(3, 4, dtype=torch.bool), "nothing that stays"),
    ],
    ids=lambda value: "",
)
def test_masks_that_cannot_be_meant_are_refused(keep, said):
    with pytest.raises(data.DataError, match=said):
        data.check_mask(keep, (3, 4))
