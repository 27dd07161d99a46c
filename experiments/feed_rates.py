"""How many photographs a second are read, by threads or by worker processes, and what is left for launching.

    python experiments/feed_rates.py            # four minutes; on a machine that does nothing else

The pictures are those of chapter 13: JPEGs of 500 x 375 pixels and about 115 kB, read as random crops of 256 pixels.
By threads of a process, as minivar once did it, and by the worker processes of ``data.Feed``: of each the images a
second are counted while the process only waits for batches; and while it calls small operations one after the other,
as a training does that keeps a GPU busy, how many of these it gets done, as a share of those it does alone. What a
batch costs the training process itself is measured too: to copy its bytes, or to make floats of them on the CPU.
Writes data/results/feed_rates.json.
"""

import contextlib
import io
import itertools
import json
import os
import platform
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision.transforms.functional as TF
from PIL import Image

from minivar import data, files

BATCH, SECONDS, TIMES = 96, 5.0, 3  # images; of each measurement; measurements, of which the median counts
OUT = data.DATA_ROOT / "results" / "feed_rates.json"


def poster(emoji: torch.Tensor, draw: torch.Generator) -> bytes:
    """Chapter 13's: emoji side by side, with noise until the JPEG has as many bytes as ImageNet's average file."""
    tiles = emoji[torch.randint(len(emoji), (9, 12), generator=draw)]
    sheet = tiles.permute(2, 0, 3, 1, 4).reshape(3, 9 * 32, 12 * 32)
    large = np.asarray(TF.to_pil_image(sheet).resize((500, 375), Image.Resampling.BICUBIC), np.float32)
    noisy = large + 16 * torch.randn(large.shape, generator=draw).numpy()
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_posters(root: Path, count: int = 96) -> float:
    """Write them; their mean size in bytes."""
    draw, emoji = torch.Generator().manual_seed(0), data.load("emoji").images
    (root / "class").mkdir()
    for i in range(count):
        (root / "class" / f"{i:02d}.jpg").write_bytes(poster(emoji, draw))
    return float(np.mean([path.stat().st_size for path in (root / "class").iterdir()]))


def requests(size: int):
    """The whole set again and again, in batches of ``size``, another crop each time."""
    for view in itertools.count():
        index = torch.arange(size) % 96
        yield index, torch.full_like(index, view)


def launches(seconds: float) -> float:
    """Small operations a second, called from this thread one after the other."""
    x, done, end = torch.zeros(1), 0, time.perf_counter() + seconds
    begun = time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(100):
            x.add_(1)
        done += 100
    return done / (time.perf_counter() - begun)


@contextlib.contextmanager
def reading(dataset: data.FolderSet, way: str, count: int, size: int):
    """An iterator of batches that ``count`` threads or processes are reading already, two batches each ahead."""
    if way == "processes":
        with contextlib.closing(data.Feed(dataset, requests(size), count)) as feed:
            batches = iter(feed)
            next(batches)
            yield batches
        return
    with ThreadPoolExecutor(count) as pool:
        asked = requests(size)
        coming = [pool.submit(dataset.pixels, *next(asked)) for _ in range(2 * count)]

        def batches():
            while True:
                coming.append(pool.submit(dataset.pixels, *next(asked)))
                yield coming.pop(0).result()

        yield batches()
        pool.shutdown(wait=True, cancel_futures=True)


def images_per_second(dataset: data.FolderSet, way: str, count: int) -> float:
    """While this process only waits. Of batches of 32, so that threads and processes share them out evenly."""
    with reading(dataset, way, count, 32) as batches:
        for _ in range(2 * count):  # what lies ready was not read in the time that is measured
            next(batches)
        begun, images = time.perf_counter(), 0
        while time.perf_counter() < begun + SECONDS:
            next(batches)
            images += 32
        return images / (time.perf_counter() - begun)


def share_of_launches(dataset: data.FolderSet, way: str, count: int) -> float:
    """While ``count`` threads or processes read batches large enough to last."""
    alone = launches(SECONDS / 4)
    with reading(dataset, way, count, 200) as batches:
        share = launches(SECONDS / 4) / alone
        del batches
        return share


def per_core(dataset: data.FolderSet) -> float:
    """Images a second of processor time, in this process and by one thread."""
    asked, begun, images = requests(32), time.process_time(), 0
    while time.process_time() < begun + SECONDS:
        images += len(dataset.pixels(*next(asked))[0])
    return images / (time.process_time() - begun)


def milliseconds(function, repeats: int = 20) -> float:
    """Median wall time of a call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times))


def main() -> None:
    torch.set_num_threads(1)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        size = make_posters(Path(folder))
        dataset = data.FolderSet(folder, 256, crop="random")
        pixels, _ = dataset.pixels(torch.arange(BATCH), 0)
        result = {
            "machine": {
                "processors": os.cpu_count(),
                "load_before": [round(x, 2) for x in load],
                "python": platform.python_version(),
                "torch": torch.__version__.split("+")[0],
                "pillow": PIL.__version__,
            },
            "jpeg_bytes": round(size),
            "images_per_second_of_a_core": round(np.median([per_core(dataset) for _ in range(TIMES)]), 1),
            "batch_of": BATCH,
            "ms_to_copy_bytes": round(milliseconds(pixels.clone), 2),
            "ms_to_floats": round(milliseconds(lambda: data.to_float(pixels)), 2),
            "rows": [],
        }
        for way, count in itertools.product(("threads", "processes"), (1, 2, 4)):
            rates = [images_per_second(dataset, way, count) for _ in range(TIMES)]
            shares = [share_of_launches(dataset, way, count) for _ in range(TIMES)]
            row = {"way": way, "count": count, "images_per_second": round(float(np.median(rates)), 1)}
            row |= {"all": [round(rate, 1) for rate in rates], "launches": round(float(np.median(shares)), 3)}
            result["rows"].append(row)
            print(row, flush=True)
    text = json.dumps(result, indent=1) + "\n"
    files.write_atomically(OUT, lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
