"""Train text encoder and image tower, and write text-emoji and judge-text-emoji.safetensors into data/checkpoints.

    python -m experiments.build_text --try             # on "train", judged on "validation": to choose settings
    python -m experiments.build_text                   # the same, judged on "heldout", and written

The encoder makes features of captions, which transformers read (presets text-emoji-...); the two towers together
judge what they draw. Both see the drawings of "train" alone, slightly turned and resized, each epoch under other
captions (``data.captions``), so that the things and pairs that are held out are new to them. The vocabulary is of
the words that belong to two things of "train" or more; all others are known by their trigrams. What is printed, and
kept in the header, is how often the judge recognises real drawings of held-out things, by name, among all of them.
"""

import argparse
import time
from pathlib import Path

import torch

from minivar import checkpoints, data, evaluation, files
from minivar.data import jitter
from minivar.evaluation.captions import JUDGE, TEXT
from minivar.models import TextConfig, TextEncoder

FOLDER = data.DATA_ROOT / "checkpoints"
EPOCHS, BATCH, RATE = 16, 256, 2e-3
TOWER = evaluation.ContrastConfig(channels=3, image_size=32, patch=2, width=24, features=96, projection=64)


def vocabulary(train: data.Captioned) -> data.Vocabulary:
    """The words of names and keywords that two things of "train" have, of the colours and of the styles."""
    known = {thing["id"]: thing for thing in data.emoji_listing()["things"]}
    things = [known[train.extra["thing"].names[i]] for i in train.extra["thing"].values.unique().tolist()]
    words = data.common_words([" ".join([thing["name"], *thing["keywords"]]) for thing in things])
    named = [" ".join(train.extra[key].names) for key in ("colour", "style")]
    return data.Vocabulary(tuple(sorted({*words, *data.common_words(named, times=1)})))


def learn(train: data.Captioned, epochs: int, seed: int, report=None) -> evaluation.CaptionJudge:
    """Both towers, trained; ``report(judge, epoch, loss)`` after each epoch."""
    torch.manual_seed(seed)
    text = TextEncoder(TextConfig(vocabulary(train), train.extra["style"].names))
    judge = evaluation.CaptionJudge(evaluation.ContrastJudge(TOWER), text)
    parameters = [*judge.image.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05)
    steps = epochs * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps + 1)
    for epoch in range(epochs):
        judge.image.train(), text.train()
        order, losses = torch.randperm(len(train)), []
        for index in order.split(BATCH)[: len(train) // BATCH]:
            images = train.batch(index)[0]
            images = jitter(images, 8, 0.15, 2, torch.default_generator, train.background)
            ids = text.config.vocabulary.ids(train.captions(index, epoch))
            alike = evaluation.also_true(train, index, epoch)
            loss = evaluation.caption_loss(judge.image(images), text.embed(ids), text.log_scale, alike)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        judge.image.eval(), text.eval()
        if report:
            report(judge, epoch, sum(losses) / len(losses))
    return judge


def tested(judge: evaluation.CaptionJudge, images: data.Captioned) -> dict:
    """What the judge says of real drawings, called by their full captions."""
    return evaluation.retrieval_of_captions(judge, images.images.float() / 255, images)


def save(judge: evaluation.CaptionJudge, folder: Path, **found: object) -> None:
    """Both towers in float16; the fingerprint of the encoder is that of what is read back."""
    halves = [
        {key: value.half() if value.is_floating_point() else value for key, value in tower.state_dict().items()}
        for tower in (judge.text, judge.image)
    ]
    checkpoints.save(judge.text, folder / TEXT, halves[0], **found)
    text, _ = checkpoints.load(folder / TEXT, "TextEncoder")
    checkpoints.save(judge.image, folder / JUDGE, halves[1], text=files.weights_fingerprint(text), **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=FOLDER, help="folder for the two files (default: the shipped ones)"
    )
    parser.add_argument("--try", dest="trial", action="store_true", help="for choosing settings: see above")
    args = parser.parse_args()
    parts = ("validation", "validation-pairs") if args.trial else ("heldout", "heldout-pairs")
    train = data.captioned(data.load("emoji-32", "train"))
    heldout = {part: data.captioned(data.load("emoji-32", part)) for part in parts}
    started = time.time()

    def report(judge, epoch: int, loss: float) -> None:
        if args.trial or epoch == args.epochs - 1:
            found = tested(judge, heldout[parts[0]])
            shown = {key: f"{row['accuracy']:.3f} ({row['chance']:.3f})" for key, row in found.items()}
            print(f"epoch {epoch + 1}, {time.time() - started:.0f} s: loss {loss:.3f}", shown, flush=True)

    judge = learn(train, args.epochs, args.seed, report)
    found = {part: tested(judge, images) for part, images in heldout.items()}
    print({part: {key: round(row["accuracy"], 3) for key, row in rows.items()} for part, rows in found.items()})
    if not args.trial:
        save(judge, args.out, heldout=found)
        print(f"wrote {TEXT} and {JUDGE}")


if __name__ == "__main__":
    main()
