"""What an image and a training run cost, before they are paid for."""
