"""Train the digit classifier that judges samples, and write data/checkpoints/digits-classifier.safetensors.

    python experiments/build_classifier.py [--epochs 30]

It sees the 8,000 training digits under small random rotations, shifts and scalings, never the held-out 2,000, on
which its accuracy is printed and stored in the file's header. About five minutes on two CPU cores.
"""

import argparse

import torch
import torch.nn.functional as F

from minivar import checkpoints, data, evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    train, heldout = data.load("digits", "train+validation"), data.load("digits", "heldout")
    model = evaluation.DigitClassifier(evaluation.ClassifierConfig())
    batch, steps = 128, epochs * (len(train) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(train)).split(batch)[: len(train) // batch]:
            images, labels = train.batch(index)
            images = data.jitter(images, degrees=10, scale=0.1, shift=2, generator=torch.default_generator)
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        images, labels = heldout.batch(slice(None))
        accuracy = (evaluation.in_batches(model, images).argmax(1) == labels).float().mean().item()
        print(f"epoch {epoch + 1}: held-out accuracy {accuracy:.4f}", flush=True)
    path = data.DATA_ROOT / "checkpoints" / "digits-classifier.safetensors"
    checkpoints.save(model, path, heldout_accuracy=accuracy)
    print(f"wrote {path.name}, held-out accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
