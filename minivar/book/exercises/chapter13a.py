"""Exercises of chapter 13a: a discriminator's losses, weight and penalty; sides and numbers of one's own."""

from functools import partial

import torch
import torch.nn.functional as F

from minivar.book.exercises.exercise import Exercise

# Two losses -------------------------------------------------------------------------------------------------------


def hinge_losses(real, fake):
    """Answers to images and to reconstructions, any shape -> losses of discriminator and tokenizer, two scalars."""
    learning = 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())
    return learning, -fake.mean()


def _hinge(real, fake, clipped=True, half=0.5, swapped=False, satisfied=False, against=False):
    hinge = F.relu if clipped else (lambda x: x)
    real, fake = (fake, real) if swapped else (real, fake)
    learning = half * (hinge(1 - real).mean() + hinge(1 + fake).mean())
    passing = F.relu(1 - fake).mean() if satisfied else fake.mean() if against else -fake.mean()
    return learning, fake.mean() * -1 if swapped else passing


def _ask_answers(real: list[float], fake: list[float]):
    return lambda function: torch.stack(list(function(torch.tensor(real), torch.tensor(fake))))


HINGE_LOSSES = Exercise(
    hinge_losses,
    title="Two losses",
    stars=1,
    minutes=8,
    way_in="torch.relu for what is not clear yet; the tokenizer wants its answers high",
    remark="`losses.hinge_discriminator_loss` and `hinge_generator_loss`. The trainer of VAR's authors leaves out "
    "the factor 1/2.",
    cases=(
        ("a discriminator that knows nothing", _ask_answers([0.0, 0.0], [0.0, 0.0])),
        ("one that is right and sure", _ask_answers([2.0, 3.0], [-2.0, -5.0])),
        ("one that is right and not sure", _ask_answers([0.5, 0.25], [-0.5, 0.0])),
        ("one that is wrong", _ask_answers([-1.0, -2.0, 0.5], [1.0, 0.5, -3.0])),
    ),
    mistakes=(
        (
            "Who is right by more than 1 has nothing left to learn there: cut off at 0.",
            partial(_hinge, clipped=False),
        ),
        ("The discriminator's loss is the mean of both sides, not their sum.", partial(_hinge, half=1.0)),
        ("Images are to be above 0, reconstructions below.", partial(_hinge, swapped=True)),
        ("The tokenizer's side has no hinge: it always wants more.", partial(_hinge, satisfied=True)),
        ("The tokenizer wants its reconstructions to be taken for images.", partial(_hinge, against=True)),
    ),
)

# How hard it may pull -----------------------------------------------------------------------------------------------


def pulling_weight(rebuilt, adversarial, last_layer):
    """Two losses (scalars), the decoder's last weight -> ratio of their gradients' lengths there, a plain number."""
    pull, other = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (rebuilt, adversarial)
    )
    return (pull / (other + 1e-4)).clamp(0, 1e4)


def _pulling(rebuilt, adversarial, last_layer, losses=False, inverse=False, squares=False, delta=1e-4, most=1e4):
    pull, other = (
        loss.detach().abs() if losses else torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (rebuilt, adversarial)
    )
    pull, other = (other, pull) if inverse else (pull, other)
    ratio = pull / (other + delta)
    return (ratio.square() if squares else ratio).clamp(0, most)


def _ask_decoder(scale: float):
    """A decoder of one weight matrix, pixels that are wrong by a little, and answers ``scale`` times as large."""

    def ask(function):
        draw = torch.Generator().manual_seed(4)
        weight = torch.randn(3, 2, generator=draw).requires_grad_()
        rebuilt = torch.randn(5, 2, generator=draw) @ weight.T
        wanted = torch.randn(5, 3, generator=draw)
        found = function((rebuilt - wanted).square().mean(), -scale * rebuilt.sum(1).tanh().mean(), weight)
        return torch.as_tensor(found).detach().reshape(())

    return ask


def _stays(function):
    weight = torch.ones(2, requires_grad=True)
    found = function(weight.square().sum(), weight.sum(), weight)
    (weight.square().sum() + weight.sum()).backward()  # both graphs are needed afterwards
    return bool(torch.as_tensor(found).requires_grad)


PULLING_WEIGHT = Exercise(
    pulling_weight,
    title="How hard it may pull",
    stars=2,
    minutes=15,
    way_in="torch.autograd.grad of each loss, its norm, and a quotient",
    hint="`torch.autograd.grad(loss, last_layer, retain_graph=True)` returns a tuple of one gradient and leaves the "
    "graph for the backward pass that follows. Limit the quotient to [0, 10,000].",
    remark="`losses.adaptive_weight`; on several GPUs the gradients are averaged first, since each norm alone would "
    "be that of another batch.",
    cases=(
        ("answers as they are", _ask_decoder(1.0)),
        ("answers a hundred times as large", _ask_decoder(100.0)),
        ("answers that hardly change", _ask_decoder(1e-4)),
        ("answers that do not change at all", _ask_decoder(0.0)),
        ("the weight is a number to multiply with, without a gradient", _stays),
    ),
    mistakes=(
        ("Compare the gradients at the last layer, not the losses.", partial(_pulling, losses=True)),
        (
            "The quotient is upside down: large gradients of the discriminator need a small weight.",
            partial(_pulling, inverse=True),
        ),
        ("The lengths are compared, not their squares.", partial(_pulling, squares=True)),
        ("Without the 1e-4 below, gradients near zero give a weight without bounds.", partial(_pulling, delta=1e-12)),
        ("The weight has an upper limit of 10,000.", partial(_pulling, most=1e9)),
    ),
)

# A penalty for steep answers ----------------------------------------------------------------------------------------


def steepness(images, answers, gamma):
    """Images (B, C, H, W) that require gradients, answers (B, ...) to them -> gamma / 2 E |gradient|^2."""
    (gradient,) = torch.autograd.grad(answers.sum(), images, create_graph=True)
    return gamma / 2 * gradient.square().flatten(1).sum(1).mean()


def _steep(images, answers, gamma, mean=False, pixels=False, root=False, cut=False, half=2.0):
    total = answers.mean() if mean else answers.sum()
    (gradient,) = torch.autograd.grad(total, images, create_graph=not cut, retain_graph=True)
    squares = gradient.square().flatten(1)
    squares = squares.mean(1) if pixels else squares.sum(1)
    return gamma / half * (squares.sqrt() if root else squares).mean()


def _judged():
    draw = torch.Generator().manual_seed(5)
    images = torch.randn(3, 1, 4, 4, generator=draw).requires_grad_()
    kernel = torch.randn(1, 1, 2, 2, generator=draw).requires_grad_()
    return images, kernel, F.conv2d(images, kernel, stride=2).tanh()


def _ask_steep(gamma: float):
    def ask(function):
        images, _, answers = _judged()
        return torch.as_tensor(function(images, answers, gamma)).detach()

    return ask


def _learns(function):
    images, kernel, answers = _judged()
    penalty = function(images, answers, 1.0)
    return bool(penalty.requires_grad) and torch.autograd.grad(penalty, kernel)[0].abs().sum().item() > 0


STEEPNESS = Exercise(
    steepness,
    title="A penalty for steep answers",
    stars=2,
    minutes=12,
    way_in="torch.autograd.grad(..., create_graph=True), squared and summed, then averaged",
    hint="An image's answer is the sum over its patches. As no image's answer depends on another image, the gradient "
    "of the sum of all answers holds each one's own.",
    remark="`losses.r1_penalty`. With `create_graph=True` the gradient has a graph of its own: the discriminator "
    "learns from a loss that contains a derivative.",
    cases=(
        ("three images of four patches", _ask_steep(1.0)),
        ("gamma 10", _ask_steep(10.0)),
        ("the discriminator can learn from it", _learns),
    ),
    mistakes=(
        (
            "The answers are added up, not averaged: else the penalty shrinks with the batch.",
            partial(_steep, mean=True),
        ),
        ("An image's gradient has the sum of its squares, not their mean.", partial(_steep, pixels=True)),
        ("The square of the length is asked for, not the length.", partial(_steep, root=True)),
        ("Gamma is halved.", partial(_steep, half=1.0)),
        (
            "The discriminator cannot learn from it: the gradient needs a graph (create_graph).",
            partial(_steep, cut=True),
        ),
    ),
)

# Sides of one's own -------------------------------------------------------------------------------------------------


def sides_for(pixels, stride, shrink):
    """Sides of a schedule, coarse to fine, from 1 to the latent grid of a picture of so many pixels; a tuple."""
    sides = [-(-pixels // stride)]  # a border that is left over is padded to a cell
    while sides[-1] > 1:
        sides.append(max(1, int(sides[-1] * shrink)))
    return tuple(reversed(sides))


def _sides(pixels, stride, shrink, cut=False, turned=True, half=int, upwards=False, open_end=False):
    last = pixels // stride if cut else -(-pixels // stride)
    if upwards:
        sides = [1]
        while sides[-1] < last:
            sides.append(min(last, max(sides[-1] + 1, int(sides[-1] / shrink))))
        return tuple(sides)
    sides = [last]
    while sides[-1] > (2 if open_end else 1):
        sides.append(max(1, min(sides[-1] - 1, half(sides[-1] * shrink))))
    return tuple(reversed(sides) if turned else sides)


def _ask_sides(pixels: int, stride: int, shrink: float):
    return lambda function: tuple(int(side) for side in function(pixels, stride, shrink))


SIDES_FOR = Exercise(
    sides_for,
    title="Sides for another size",
    stars=2,
    minutes=12,
    way_in="begin with the last side and go down",
    hint="`-(-a // b)` is a / b, rounded up. `int` rounds down. A last step from 2 to 0 has to be stopped at 1.",
    cases=(
        ("32 pixels at stride 8, halves", _ask_sides(32, 8, 0.5)),
        ("128 pixels at stride 8, three quarters", _ask_sides(128, 8, 0.75)),
        ("28 pixels at stride 8: the border is padded", _ask_sides(28, 8, 0.5)),
        ("a third at a time", _ask_sides(64, 8, 0.34)),
        ("256 pixels at stride 16, 0.84", _ask_sides(256, 16, 0.84)),
        ("512 pixels at stride 16, 0.75", _ask_sides(512, 16, 0.75)),
    ),
    mistakes=(
        ("The sides go from coarse to fine.", partial(_sides, turned=False)),
        ("Round down, not to the nearest.", partial(_sides, half=round)),
        ("What is left over at the border is a cell too.", partial(_sides, cut=True)),
        ("Begin with the last side: from below, the last step may be a tiny one.", partial(_sides, upwards=True)),
        ("The first scale is a single token.", partial(_sides, open_end=True)),
    ),
)

# Numbers of one's own -----------------------------------------------------------------------------------------------


def own_numbers(pixels, sides, classes, images, steps, batch):
    """What to change in a preset, {field: value}, for images of one's own and so many steps of training."""
    return {
        "tokenizer.image_size": pixels,
        "tokenizer.schedule": sides,
        "model.schedule": sides,
        "model.num_classes": classes,
        "model_train.epochs": steps * batch / images,
    }


def _numbers(
    pixels, sides, classes, images, steps, batch, one=False, null=0, inverse=False, batched=True, cells=False
):
    epochs = images / (steps * batch) if inverse else steps * (batch if batched else 1) / images
    found = {
        "tokenizer.image_size": sides[-1] if cells else pixels,
        "tokenizer.schedule": sides,
        "model.schedule": sides,
        "model.num_classes": classes + null,
        "model_train.epochs": epochs,
    }
    return {key: value for key, value in found.items() if not (one and key == "model.schedule")}


def _ask_numbers(*wanted):
    def ask(function):
        found = dict(function(*wanted))
        found["model_train.epochs"] = round(float(found["model_train.epochs"]), 6)
        found |= {key: tuple(value) for key, value in found.items() if key.endswith("schedule")}
        return dict(sorted(found.items()))

    return ask


OWN_NUMBERS = Exercise(
    own_numbers,
    title="What changes",
    stars=1,
    minutes=8,
    way_in="five fields: two of tokenizer, two of model, and model_train.epochs",
    hint="Every epoch shows every image once, a batch at a time.",
    cases=(
        ("37 classes of 100 pets, 128 pixels", _ask_numbers(128, (1, 2, 4, 8, 16), 37, 3_700, 20_000, 256)),
        ("one class, 192 pixels", _ask_numbers(192, (1, 3, 9, 24), 1, 50_000, 10_000, 64)),
    ),
    mistakes=(
        ("Both models have to know the schedule.", partial(_numbers, one=True)),
        ("The class for no class is added by the model: give the number of folders.", partial(_numbers, null=1)),
        ("A step shows a whole batch.", partial(_numbers, batched=False)),
        ("The more images, the fewer epochs for as many steps.", partial(_numbers, inverse=True)),
        ("The image size is in pixels, the last side in cells.", partial(_numbers, cells=True)),
    ),
)
