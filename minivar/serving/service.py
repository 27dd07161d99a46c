"""What may be asked of a model that is served, and the jobs that it becomes."""

import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from minivar import sampling
from minivar.checks import check
from minivar.data.base import to_uint8
from minivar.models import GPT, VAR, Generator
from minivar.precision import convolution_order
from minivar.serving.continuous import ContinuousBatch
from minivar.serving.jobs import Job
from minivar.serving.pyramids import PyramidBatch
from minivar.serving.worker import Worker
from minivar.tokenizer import VQVAE, Pixels

GATHER_SECONDS = 0.005  # for which VAR waits for company; nobody notices them


@dataclass(frozen=True)
class Limits:
    """What a server takes upon itself."""

    slots: int = 8  # pictures that a model draws at once
    most_images: int = 64  # of one request
    most_waiting: int = 256  # pictures before each model
    most_bytes: int = 65_536  # of a request's body

    def __post_init__(self) -> None:
        most = "[1, 1e6]"
        check(self, slots="[1, 4096]", most_images=most, most_waiting=most, most_bytes="[1, 1e9]")
        if self.most_images > self.most_waiting:
            raise ValueError(
                f"A request must fit into the queue: expected at most {self.most_waiting} images of one request, as "
                f"may wait; got {self.most_images}."
            )


@dataclass(frozen=True)
class Request:
    """Pictures that are asked for: picture i shows class i, in rotation, and is drawn with the seed ``seed + i``."""

    model: str
    classes: tuple[int, ...]
    count: int | None = None  # None: one of each class
    seed: int = 0
    format: str = "png"  # one picture, a grid; or "json": each by itself, in base64
    cfg: float | None = None  # these four: None is the checkpoint's own
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None  # raster order only

    def __post_init__(self) -> None:
        check(self, classes="[0, inf)", count="[1, inf)", seed="[0, inf)", format=("png", "json"))
        if not self.classes:
            raise ValueError("classes must name at least one class, as in [3, 7]; got none.")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2^63; got {self.seed}.")

    @property
    def images(self) -> int:
        """How many pictures are asked for."""
        return len(self.classes) if self.count is None else self.count


def read_request(given: object) -> Request:
    """The request that a JSON object stands for; ``ValueError``, in one sentence, if it does for none."""
    fields = [field.name for field in dataclasses.fields(Request)]
    if not isinstance(given, dict):
        raise ValueError(f"A request is a JSON object with {', '.join(fields)}; got {given!r:.80}.")
    if unknown := [name for name in given if name not in fields]:
        raise ValueError(f"A request has the fields {', '.join(fields)}; got {unknown[0]!r:.80}.")
    if missing := [name for name in ("model", "classes") if name not in given]:
        raise ValueError(f"A request must name {missing[0]}; got only {', '.join(given) or 'an empty object'}.")
    classes = given["classes"]
    return Request(**{**given, "classes": tuple(classes) if isinstance(classes, list) else classes})


class Service:
    """A model that is served: what it is called, how it draws, and its worker.

    On a CPU the weights are packed. Raises ``ValueError`` for models that are not drawn token by token or scale by
    scale.
    """

    def __init__(
        self, name: str, tokenizer: VQVAE | Pixels, model: Generator, settings: dict, limits: Limits, device="cpu"
    ) -> None:
        kinds = {VAR: PyramidBatch, GPT: ContinuousBatch}
        if type(model) not in kinds:
            raise ValueError(f"{name} holds a {type(model).__name__}; expected VAR or GPT, which are what is served.")
        tokenizer = tokenizer.to(device, memory_format=convolution_order(torch.device(device)))
        engine = kinds[type(model)](sampling.packed(model.to(device)), sampling.packed(tokenizer), limits.slots)
        self.name, self.kind, self.limits = name, type(model).__name__, limits
        self.classes = model.config.num_classes
        self.settings = sampling.SETTINGS[type(model.config)](**settings)
        self.grids = list(model.schedule.grids) if isinstance(model, VAR) else [engine.grid] * engine.stages
        gather = GATHER_SECONDS if isinstance(model, VAR) else 0.0  # nobody needs to wait for who can join later
        self.worker = Worker(engine, limits.most_waiting, gather)

    def describe(self) -> dict[str, object]:
        """What a client needs to know to ask."""
        return {
            "name": self.name,
            "kind": self.kind,
            "classes": self.classes,
            "grids": self.grids,  # of each stage: the scale's, or the one that fills row by row
            "settings": dataclasses.asdict(self.settings),
            "most_images": self.limits.most_images,
        }

    def jobs(self, request: Request, listen: Callable[[Job, str, object], None], watched: bool = False) -> list[Job]:
        """One for each picture; ``ValueError``, in one sentence, for what this model or this server cannot do."""
        if request.images > self.limits.most_images:
            raise ValueError(
                f"A request may ask for at most {self.limits.most_images} images; got {request.images}: ask several "
                "times."
            )
        if max(request.classes) >= self.classes:
            raise ValueError(f"{self.name} draws the classes 0..{self.classes - 1}; got {max(request.classes)}.")
        given = {name: getattr(request, name) for name in ("cfg", "top_k", "top_p", "temperature")}
        given = {name: value for name, value in given.items() if value is not None}
        if foreign := [name for name in given if not hasattr(self.settings, name)]:
            raise ValueError(f"{foreign[0]} is not for {self.kind} models; got one for {self.name}.")
        settings = dataclasses.replace(self.settings, **given)
        return [
            Job(request.classes[i % len(request.classes)], request.seed + i, settings, watched=watched, listen=listen)
            for i in range(request.images)
        ]


def png(images: list[Tensor]) -> bytes:
    """One picture (1 or 3, H, W) in [0, 1] as it is, or several in rows of ten at most, with grey lines between."""
    if len(images) == 1:
        sheet = images[0]
    else:
        columns = min(10, len(images))
        rows = math.ceil(len(images) / columns)
        channels, height, width = images[0].shape
        sheet = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), 0.5)
        for i, image in enumerate(images):
            top, left = i // columns * (height + 1) + 1, i % columns * (width + 1) + 1
            sheet[:, top : top + height, left : left + width] = image
    pixels = to_uint8(sheet * 2 - 1).permute(1, 2, 0).squeeze(2).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
