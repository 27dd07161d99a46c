"""Train the digit classifier that judges samples, and write data/checkpoints/digits-classifier.safetensors.

    python data/build_classifier.py [--epochs 30]

It sees the 8,000 training digits under small random rotations, shifts and scalings, never the held-out 2,000, on
which its accuracy is printed and stored in the file's header. About five minutes on two CPU cores.
"""

import argparse

import torch
import torch.nn.functional as F

from minivar import checkpoints, data, metrics


def jitter(images: torch.Tensor) -> torch.Tensor:
    """Random affine change of each image: up to 10 degrees, 10 % of scale, 2 pixels of shift."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * torch.pi / 18
    scale = 1 + (torch.rand(count) * 2 - 1) * 0.1
    shift = (torch.rand(count, 2) * 2 - 1) * 2 / 14
    rows = torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], 1)
    columns = torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # + 1: outside the picture is black


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    train, heldout = data.load_digits("train"), data.load_digits("heldout")
    model = metrics.DigitClassifier(metrics.ClassifierConfig())
    batch, steps = 128, epochs * (len(train) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        for index in torch.randperm(len(train)).split(batch)[: len(train) // batch]:
            images, labels = train.batch(index)
            loss = F.cross_entropy(model(jitter(images)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        images, labels = heldout.batch(slice(None))
        accuracy = (metrics.in_batches(model, images).argmax(1) == labels).float().mean().item()
        print(f"epoch {epoch + 1}: held-out accuracy {accuracy:.4f}", flush=True)
    path = data.DATA_ROOT / "checkpoints" / "digits-classifier.safetensors"
    checkpoints.save(model, path, heldout_accuracy=accuracy)
    print(f"wrote {path.name}, held-out accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
