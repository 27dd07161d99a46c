"""What is understood by watching it: small animations, with words for those who cannot see them.

In a page an animation is a PNG with several frames, which every front end that shows figures plays, GitHub among
them, and whose first frame is a figure where nothing moves; ``save`` writes the same frames as a GIF.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minivar import sampling
from minivar.book import plots
from minivar.book.plots.tokens import first_component
from minivar.files import write_atomically
from minivar.models import GPT, VAR
from minivar.sampling.forming import Stage
from minivar.tokenizer import VQVAE

MOST_BYTES = 150_000  # of an animation in a page
MOST_COLOURS = 255  # of a palette


class Animation:
    """Frames of one size, how long each is shown, in milliseconds, and what they show, in a sentence."""

    def __init__(self, frames: Sequence[Image.Image], milliseconds: Sequence[int], alt: str) -> None:
        if not frames or len(frames) != len(milliseconds):
            raise ValueError(f"Each frame is shown for a time: got {len(frames)} and {len(milliseconds)}.")
        self.frames, self.milliseconds, self.alt = list(frames), list(milliseconds), alt

    def encoded(self, kind: str) -> bytes:
        """As a file, "GIF" or "PNG"; it begins again when it has ended."""
        flat = with_one_palette(self.frames)
        buffer, how = io.BytesIO(), {"save_all": True, "append_images": flat[1:], "duration": self.milliseconds}
        if kind == "GIF":
            flat[0].save(buffer, "GIF", loop=0, optimize=True, disposal=1, **how)
        else:
            flat[0].save(buffer, "PNG", loop=0, optimize=True, **how)
        return buffer.getvalue()

    def save(self, path: Path | str) -> None:
        """Write a GIF, as a whole or not at all."""
        write_atomically(Path(path), lambda temporary: Path(temporary).write_bytes(self.encoded("GIF")))

    def _repr_mimebundle_(self, **_options) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.encoded("PNG")).decode(), "text/plain": self.alt}
        return data, {"image/png": {"alt": self.alt}}


def with_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames with the same colours, so that nothing flickers; black and the white of the paper are among them.

    At most 255: a GIF needs one for what stays as it was in the frame before.
    """
    pixels = [np.asarray(frame.convert("RGB"), dtype=np.int64) @ (65536, 256, 1) for frame in frames]
    found, index = np.unique(np.stack(pixels), return_inverse=True)
    colours = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    palette = colours
    if len(colours) > MOST_COLOURS:
        strip = Image.fromarray(np.asarray(colours[index], dtype=np.uint8).reshape(1, -1, 3))
        chosen = strip.quantize(MOST_COLOURS - 2).getpalette()[: 3 * (MOST_COLOURS - 2)]
        palette = np.array([*chosen, 255, 255, 255, 0, 0, 0]).reshape(-1, 3)
    nearest = np.square(colours[:, None] - palette).sum(-1).argmin(1).astype(np.uint8)
    flat = []
    for frame, part in zip(frames, nearest[index].reshape(len(frames), -1), strict=True):
        flat.append(Image.fromarray(part.reshape(frame.height, frame.width), mode="P"))
        flat[-1].putpalette(palette.astype(np.uint8).tobytes())
    return flat


def _frame(figure, dpi: int = 72) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


@torch.no_grad()
def f_hat_built(tokenizer: VQVAE, tokens: list[Tensor]) -> Animation:
    """One pyramid of tokens, K x (1, h_k w_k) int64, is read: scale by scale the sum and its picture grow.

    The sum is coloured by its first principal component, as elsewhere in the book. Raises ``ValueError`` for tokens
    that are not those of one image. Paper: Algorithm 2.
    """
    schedule = tokenizer.schedule
    if [tuple(t.shape) for t in tokens] != [(1, count) for count in schedule.counts]:
        raise ValueError(
            f"Expected the tokens of one image, {schedule.counts} of them; got {[tuple(t.shape) for t in tokens]}."
        )
    f_hats = list(tokenizer.quantizer.accumulate(tokens))
    f_hats = [torch.zeros_like(f_hats[0]), *f_hats]
    pictures = [plots.to_unit(tokenizer.decode_features(f))[0] for f in f_hats]
    flat = first_component([f[0] for f in f_hats])
    maps = [m - flat[0] for m in flat]  # nothing yet is white
    limit = max(float(m.abs().max()) for m in maps)
    grids = [t[0].view(grid) for t, grid in zip(tokens, schedule.grids, strict=True)]
    frames = []
    for k in range(schedule.num_scales + 1):
        count = schedule.counts[k - 1]
        codes = "code" if count == 1 else f"{count} codes"
        words = f"scale {k} adds its {codes} to the sum" if k else "before the first scale the sum is zero"
        size = tokenizer.config.codebook_size
        frames.append(_frame(plots.sum_so_far(grids, maps, pictures, schedule, size, k, limit, words)))
    alt = f"Animation: {schedule.num_scales} token maps appear one after the other, each adds its codes to "
    alt += "f-hat, and the decoded picture becomes what the image is."
    # the finished picture first: it is what a page shows where nothing moves
    return Animation([frames[-1], *frames], [1200, *[900] * (len(frames) - 1), 1200], alt)


def side_by_side(lanes: dict[str, list[Stage]], height: int = 160, columns: int = 5) -> Animation:
    """Pictures that form, in one lane or several, each (name, stages); pictures of a lane stand in rows.

    Several lanes share one clock, which counts passes through the transformers, so that who needs fewer is done
    earlier and waits. One alone shows each stage equally long.
    """
    last = max(stages[-1].passes for stages in lanes.values())
    moments = sorted({0, *(stage.passes for stages in lanes.values() for stage in stages)})
    pass_time = min(max(5000 / last, 20), 200)
    frames, times = [], []
    for moment, then in zip(moments, [*moments[1:], None], strict=True):
        frames.append(_lanes_at(lanes, moment, height, columns))
        wait = 1500 if then is None else 500 if len(lanes) == 1 else round((then - moment) * pass_time)
        times.append(max(wait, 20))
    words = " beside ".join(f"{name} ({len(stages)} stages)" for name, stages in lanes.items())
    alt = f"Animation: pictures form, {words}; the last is complete after {last} passes through its transformer."
    return Animation([frames[-1], *frames], [1000, *times], alt)


def _lanes_at(lanes: dict[str, list[Stage]], moment: int, height: int, columns: int) -> Image.Image:
    panels = []
    for name, stages in lanes.items():
        so_far = [stage for stage in stages if stage.passes <= moment]
        images = so_far[-1].images if so_far else torch.full_like(stages[0].images, 0.5)
        panel = _sheet(images, height, columns)
        canvas = Image.new("RGB", (max(panel.width, 150), panel.height + 30), "white")
        canvas.paste(panel, (0, 30))
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default()
        pen.text((2, 2), name, fill="black", font=font)
        done = so_far[-1].name if so_far else "nothing yet"
        passes = min(moment, stages[-1].passes)
        pen.text((2, 15), f"{done}, {passes} pass{'es' * (passes != 1)}", fill="black", font=font)
        panels.append(canvas)
    width, gap = sum(panel.width for panel in panels), 14
    whole = Image.new("RGB", (width + gap * (len(panels) + 1), max(p.height for p in panels) + 2 * gap), "white")
    left = gap
    for panel in panels:
        whole.paste(panel, (left, gap))
        left += panel.width + gap
    return whole


def _sheet(images: Tensor, height: int, columns: int) -> Image.Image:
    """(N, 1 or 3, H, W) in [0, 1] in rows, one of them alone enlarged to about ``height``, many to less."""
    count, _, h, w = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    factor = max(1, round(height / (h * (1 if count == 1 else 2))))
    pixels = (images.expand(-1, 3, -1, -1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pixels = pixels.repeat(factor, 1).repeat(factor, 2)
    sheet = np.full((rows * (h * factor + 2) - 2, columns * (w * factor + 2) - 2, 3), 255, dtype=np.uint8)
    for i, each in enumerate(pixels):
        top, left = i // columns * (h * factor + 2), i % columns * (w * factor + 2)
        sheet[top : top + h * factor, left : left + w * factor] = each
    return Image.fromarray(sheet)


def raster_beside_next_scale(
    scales: tuple[VAR, VQVAE], raster: tuple[GPT, VQVAE], label: int, seed: int = 0, guidance: float = 1.0
) -> Animation:
    """One picture of a class by each of two models, (model, tokenizer), on one clock of passes.

    ``guidance`` is 1 more for the raster model, whose sampler counts no guidance as 1.
    """
    labels = torch.tensor([label])

    def stages(pair, cfg: float) -> list[Stage]:
        return sampling.forming(*pair, labels, generator=torch.Generator().manual_seed(seed), cfg=cfg)

    return side_by_side({"next scale": stages(scales, guidance), "raster order": stages(raster, guidance + 1)})


def guidance_moving(p_class: Tensor, p_null: Tensor, strengths: Sequence[float], title: str) -> Animation:
    """One distribution over codes, (V,), as guidance grows and falls again: a frame for each strength, in order.

    ``p_null`` is that of the null class, and p_t is proportional to p_class^(1 + t) / p_null^t.
    """
    logits_2V = torch.stack([p_class, p_null]).clamp_min(1e-30).log()
    guided = [sampling.guide(logits_2V, t)[0].softmax(-1) for t in strengths]
    top = 1.3 * max(float(p.max()) for p in guided)
    frames = [
        _frame(plots.guided_frame(p_class, p_null, p, t, top, title)) for t, p in zip(strengths, guided, strict=True)
    ]
    back = list(range(len(frames) - 2, 0, -1))
    times = [900, *[160] * (len(frames) - 2), 900, *[110] * len(back)]
    leaders = [int((p_class > p_class[int(p.argmax())]).sum()) + 1 for p in (guided[0], guided[-1])]
    alt = f"Animation: guidance grows from {strengths[0]:g} to {strengths[-1]:g} and back, and with it one "
    alt += f"distribution over codes: at first the code of rank {leaders[0]} leads, then that of rank {leaders[1]}."
    return Animation([frames[i] for i in (*range(len(frames)), *back)], times, alt)
