"""Runs for one GPU of 24 GB and a night: small photographs, with everything that the large runs have.

Planned (``minivar plan --preset cifar32 --gpus 1 --gpu rtx3090``), and rehearsed in miniature on made-up pictures;
nobody has trained them yet, so the numbers of epochs are guesses that fill the night.
"""

from minivar.models import VARConfig
from minivar.sampling import SamplingConfig
from minivar.scales import ScaleSchedule
from minivar.tokenizer import DiscriminatorConfig, LossConfig, NetConfig, TokenizerConfig
from minivar.training.config import Preset, TrainConfig


def _preset(
    name: str,
    views: int,
    tokenizer: TokenizerConfig,
    discriminator_layers: int,
    epochs: tuple[float, float],
    at_a_time: tuple[int, int],
    num_classes: int,
) -> Preset:
    """What the two have in common: VAR's recipe and loss, a transformer of depth 8 (41 M), and averaged weights."""
    var = VARConfig.from_depth(
        8,
        num_classes=num_classes,
        codebook_size=tokenizer.codebook_size,
        code_dim=tokenizer.code_dim,
        schedule=tokenizer.schedule,
    )
    averaged = {"ema": 0.999, "final_lr_ratio": 0.01}
    return Preset(
        name=name,
        dataset="cifar10" if name == "cifar32" else "folder",
        views=views,
        tokenizer=tokenizer,
        tokenizer_train=TrainConfig(
            epochs=epochs[0],
            batch_size=256,
            base_lr=2e-4,
            betas=(0.5, 0.9),
            weight_decay=0.0,
            images_at_a_time=at_a_time[0],
            **averaged,
        ),
        model=var,
        model_train=TrainConfig(
            epochs=epochs[1], batch_size=256, base_lr=3e-4, images_at_a_time=at_a_time[1], keep_best=True, **averaged
        ),
        sampling=SamplingConfig(cfg=1.5, top_k=900, top_p=0.96),
        tokenizer_loss=LossConfig(discriminator=DiscriminatorConfig(layers=discriminator_layers)),
    )


def cifar32() -> Preset:
    """CIFAR-10 as it is, 45,000 photographs of 32 x 32 pixels and their mirror images, in 10 classes."""
    nets = NetConfig(base_channels=128, multipliers=(1, 2, 2))
    schedule = ScaleSchedule((1, 2, 3, 4, 6, 8))
    tokenizer = TokenizerConfig(image_size=32, nets=nets, codebook_size=4096, code_dim=32, schedule=schedule)
    return _preset("cifar32", 2, tokenizer, 2, (50, 150), (256, 256), num_classes=10)


def folder128() -> Preset:
    """A folder of about 100,000 photographs in 100 classes (or in others: model.num_classes), at 128 x 128 pixels."""
    nets = NetConfig(base_channels=64, multipliers=(1, 2, 2, 4))
    schedule = ScaleSchedule((1, 2, 3, 4, 6, 8, 12, 16))
    tokenizer = TokenizerConfig(image_size=128, nets=nets, codebook_size=4096, code_dim=32, schedule=schedule)
    return _preset("folder128", 1, tokenizer, 3, (20, 50), (32, 64), num_classes=100)
