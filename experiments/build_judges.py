"""Train the judges that learn without labels, and write data/checkpoints/judge-digits and judge-emoji.safetensors.

    python -m experiments.build_judges digits [--epochs 20]     # 3 minutes of one core
    python -m experiments.build_judges emoji [--epochs 20]      # 9 minutes of one core

They see the drawings of "train" and "validation" (with --try, of "train" alone, and are judged on "validation"; so
the settings were chosen). What is printed and kept in the header is of held-out drawings: of digits, how often the
nearest of the others is of the same class; of emoji, how often the nearest in another style shows the same thing,
beside pixels, the layout, and chance.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from minivar import checkpoints, data, evaluation
from minivar.data import ArraySet, jitter

CONFIGS = {
    "digits": evaluation.ContrastConfig(),
    "emoji": evaluation.ContrastConfig(channels=3, image_size=32, patch=2, width=24, features=96, projection=96),
}
VIEWS = {"digits": {"degrees": 15, "scale": 0.2, "shift": 2}, "emoji": {"degrees": 8, "scale": 0.15, "shift": 2}}
BATCH = {"digits": 256, "emoji": 256}


def load(world: str, split: str) -> ArraySet:
    return data.load("digits" if world == "digits" else "emoji-32", split)


def pairs(images: ArraySet, world: str) -> list[tuple[Tensor, Tensor]]:
    """The batches of one epoch: indices of pictures that show the same; emoji drawn by two hands where possible."""
    if world == "digits":
        order = torch.randperm(len(images))
        return [(part, part) for part in order.split(BATCH[world])[:-1]]
    things = images.extra["thing"].values
    order = torch.randperm(len(images))
    # every drawing is first once; its partner is another drawing of the thing, if there is one
    by_thing: dict[int, list[int]] = {}
    for i in order.tolist():
        by_thing.setdefault(int(things[i]), []).append(i)
    partner = torch.empty(len(images), dtype=torch.int64)
    for members in by_thing.values():
        shift = int(torch.randint(1, len(members), ())) if len(members) > 1 else 0
        for place, i in enumerate(members):
            partner[i] = members[(place + shift) % len(members)]
    batches = []
    for part in order.split(BATCH[world])[:-1]:
        _, first = things[part].unique(return_inverse=True)
        once = torch.zeros(len(part), dtype=torch.int64).scatter_(0, first, torch.arange(len(part)))
        part = part[once[: int(first.max()) + 1]]  # a thing at most once a batch: the others are to be told apart
        batches.append((part, partner[part]))
    return batches


def view(images: Tensor, world: str, background: float) -> Tensor:
    """Turned, resized and moved; digits also brighter or darker and, every other one, blurred.

    Without the latter two the digits' judge looks at the brightness of strokes above all: to it, digits after tokens
    and back were 60 times as far from the held-out ones as others, and to a reader they are the same.
    """
    images = jitter(images, generator=torch.default_generator, background=background, **VIEWS[world])
    if world == "emoji":  # two designers' drawings differ in both
        return images
    strength = 0.6 + 0.8 * torch.rand(len(images), 1, 1, 1)
    images = ((images + 1) * strength - 1).clamp(-1, 1)
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16)[None, None]
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), value=background), kernel)
    return torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, blurred, images)


def tested(judge, world: str, split: str) -> dict[str, float]:
    """What the judge is worth on drawings that it has not seen."""
    images = load(world, split)
    pixels = images.batch(slice(None))[0]
    features = evaluation.in_batches(judge.features, pixels)
    if world == "digits":
        distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
        flat = torch.cdist(pixels.flatten(1), pixels.flatten(1)).fill_diagonal_(torch.inf)
        labels = images.labels
        found = {"judge": (labels[distances.argmin(1)] == labels).float().mean().item()}
        return {**found, "pixels": (labels[flat.argmin(1)] == labels).float().mean().item()}
    what = (images.extra["thing"].values, images.extra["style"].values)
    found, chance = evaluation.retrieval(features, *what)
    of_pixels, of_layout = (evaluation.retrieval(x, *what)[0] for x in (pixels.flatten(1), evaluation.layout(pixels)))
    return {"judge": found, "pixels": of_pixels, "layout": of_layout, "chance": chance}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", choices=tuple(CONFIGS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--try", dest="trial", action="store_true", help="for choosing settings: see above")
    args = parser.parse_args()
    world, epochs = args.world, args.epochs or {"digits": 20, "emoji": 20}[args.world]
    torch.manual_seed(0)
    train = load(world, "train" if args.trial else "train+validation")
    if world == "emoji" and not args.trial:
        train = load(world, "train+validation+validation-pairs")
    judge = evaluation.ContrastJudge(CONFIGS[world])
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    steps = epochs * len(pairs(train, world))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    for epoch in range(epochs):
        judge.train()
        for chosen in pairs(train, world):
            views = [view(train.batch(i)[0], world, train.background) for i in chosen]
            loss = evaluation.contrast_loss(*map(judge, views))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if args.trial or epoch == epochs - 1:
            found = tested(judge.eval(), world, "validation" if args.trial else "heldout")
            print(
                f"epoch {epoch + 1}: loss {loss.item():.3f}", {k: round(v, 4) for k, v in found.items()}, flush=True
            )
    if not args.trial:
        state = {
            key: value.half() if value.is_floating_point() else value for key, value in judge.state_dict().items()
        }
        path = data.DATA_ROOT / "checkpoints" / f"judge-{world}.safetensors"
        checkpoints.save(judge, path, state, heldout=found)
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
