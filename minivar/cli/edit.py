"""``minivar edit``: parts of a picture drawn anew, or what lies beyond its border."""

import argparse
import re
import time

import torch
from torch import Tensor

from minivar import data, sampling
from minivar.cli.sample import parse_classes, settings_of
from minivar.cli.shared import (
    MOST_IMAGES,
    PICTURES,
    SHIPPED_OPTION,
    add_device_arguments,
    check_number,
    load_classes,
    output,
    save_npz,
)
from minivar.distributed import find_device
from minivar.precision import computing, convolution_order

SIDES = ("top", "bottom", "left", "right")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar edit``."""
    parser.add_argument("--checkpoint", **SHIPPED_OPTION)
    parser.add_argument("--image", required=True, metavar="PNG", help="the picture, of the size that the model draws")
    parser.add_argument("--resize", action="store_true", help="picture and mask to that size, if they have another")
    where = parser.add_argument_group("what is filled", "one of these; all else stays as it is, to the last bit")
    what = where.add_mutually_exclusive_group(required=True)
    what.add_argument("--mask", metavar="PNG", help="what is white in this picture, of the same size")
    what.add_argument("--box", metavar="TOP,LEFT,HEIGHT,WIDTH", help="a box, in pixels")
    what.add_argument("--brush", metavar="ROW,COLUMN,...", help="what a round brush touches from point to point")
    beyond = "pixels beyond the border, as in left=8,top=4; the model sees a window of the larger picture at a time"
    what.add_argument("--outpaint", metavar="SIDE=PIXELS,...", help=beyond)
    where.add_argument("--radius", type=float, default=2.0, metavar="PIXELS", help="of the brush (default: 2)")
    feather = "over how many pixels of what is filled its surroundings fade into it (default: 0)"
    parser.add_argument("--feather", type=int, default=0, metavar="PIXELS", help=feather)
    passes = "how often it is drawn, each time around what was drawn before (default: 2)"
    parser.add_argument("--passes", type=int, default=2, help=passes)
    classes = "what to edit towards, for instance 3 or 0-9, in rotation (default: none, the null class)"
    parser.add_argument("--classes", help=classes)
    parser.add_argument("--count", type=int, default=4, help="samples (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same samples (default: 0)")
    parser.add_argument("--cfg", type=float, help="guidance; none is 0 for VAR, 1 for others (default: the preset's)")
    parser.add_argument("--top-k", type=int, help="keep this many codes, 0: all (default: the preset's)")
    parser.add_argument("--top-p", type=float, help="keep this probability mass; all is 0 for VAR, 1 for raster")
    row = "picture, mask (white: filled) and samples in a row (default: edit.png)"
    parser.add_argument("--out", default="edit.png", metavar="PNG", help=row)
    parser.add_argument("--npz", metavar="NPZ", help="also write images in [0, 1], labels, and keep, the mask")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Draw a part of a picture anew, or go on beyond its border; what is given stays as it is."""
    device = find_device(args.device)
    numbers = computing(device, args.precision)
    check_number("--count", args.count, 1, MOST_IMAGES)
    check_number("--seed", args.seed, 0, 2**64 - 1)
    tokenizer, model, header = load_classes(args.checkpoint)
    sampling.check_editable(model)
    settings = settings_of(args, model, header)
    null = model.config.num_classes
    classes = [null] if args.classes is None else parse_classes(args.classes, null)
    channels, size = tokenizer.config.nets.image_channels, tokenizer.config.image_size or (256, 256)
    check_number("--feather", args.feather, 0, max(size))
    check_number("--passes", args.passes, 1, 100)
    image = data.read_picture(args.image, channels, size, args.resize)
    margins, keep = mask_of(args, size)
    out, npz = output(args.out, PICTURES), output(args.npz) if args.npz else None
    tokenizer, model = tokenizer.to(device, memory_format=convolution_order(device)), model.to(device)
    if args.precision == "float32":
        tokenizer, model = sampling.packed(tokenizer), sampling.packed(model)
    generator, started, parts = torch.Generator(device).manual_seed(args.seed), time.time(), []
    labels = torch.tensor([classes[i % len(classes)] for i in range(args.count)])
    edit, where = (sampling.outpaint, margins) if args.outpaint else (sampling.inpaint, keep)
    how = {"feather": args.feather, "passes": args.passes, "generator": generator, **settings}
    with numbers:
        for part in labels.split(sampling.images_at_once(model.config, args.precision)):
            given = image.to(device).expand(len(part), -1, -1, -1)
            parts.append(edit(model, tokenizer, given, part.to(device), where, **how).images.float().cpu())
    images = torch.cat(parts)
    from minivar.book import plots  # here, because matplotlib takes a second

    plots.save_images(torch.cat([as_given(image, keep), images]), out, columns=min(args.count + 2, 12))
    if npz:
        save_npz(npz, images, labels=labels, keep=keep)
    print(f"{args.count} edits in {time.time() - started:.1f} s with {settings}: {args.out}")


def mask_of(args: argparse.Namespace, size: tuple[int, int]) -> tuple[tuple[int, ...], Tensor]:
    """Margins around the picture (top, bottom, left, right), and which pixels of all that is drawn stay."""
    if args.outpaint:
        top, bottom, left, right = margins = parse_margins(args.outpaint, max(size))
        keep = torch.zeros(top + size[0] + bottom, left + size[1] + right, dtype=torch.bool)
        keep[top : top + size[0], left : left + size[1]] = True
        return margins, keep
    if args.mask:
        keep = data.read_mask(args.mask, size, args.resize)
    elif args.box:
        keep = data.box_mask(size, *whole_numbers("--box", args.box, "TOP,LEFT,HEIGHT,WIDTH", 4))
    else:
        numbers = whole_numbers("--brush", args.brush, "ROW,COLUMN,...")
        keep = data.brush_mask(size, list(zip(numbers[::2], numbers[1::2])), args.radius)
    data.check_mask(keep, size)
    return (0, 0, 0, 0), keep


def whole_numbers(option: str, text: str, form: str, count: int | None = None) -> list[int]:
    """ "3,4,5,6" -> [3, 4, 5, 6]; ``ValueError`` unless there are ``count``, or pairs."""
    found = text.split(",")
    fits = len(found) % 2 == 0 and count in (None, len(found))
    if not fits or not all(re.fullmatch(r"\s*[0-9]{1,6}\s*", each) for each in found):
        raise ValueError(f"{option} takes whole numbers, {form}; got {text!r}.")
    return [int(each) for each in found]


def parse_margins(text: str, most: int) -> tuple[int, ...]:
    """ "left=8,top=4" -> (4, 0, 8, 0); ``ValueError`` unless each lies in 1..``most``."""
    margins = dict.fromkeys(SIDES, 0)
    for part in text.split(","):
        found = re.fullmatch(rf"\s*({'|'.join(SIDES)})=([0-9]{{1,6}})\s*", part)
        if not found or margins[found[1]] or not 1 <= int(found[2]) <= most:
            raise ValueError(
                f"--outpaint takes each side once, with 1 to {most} pixels, as in left=8,top=4; got {text!r}."
            )
        margins[found[1]] = int(found[2])
    return tuple(margins.values())


def as_given(image: Tensor, keep: Tensor) -> Tensor:
    """The picture, grey where it has no pixels, and the mask, as images (2, C, height, width) in [0, 1]."""
    canvas = image.new_full((1, image.shape[1], *keep.shape), 0.5)
    if canvas.shape == image.shape:
        canvas = (image + 1) / 2
    else:
        canvas[..., keep] = (image + 1).flatten(-2) / 2
    return torch.cat([canvas, (~keep).to(canvas).expand_as(canvas)])
