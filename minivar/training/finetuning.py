"""Fine-tuning: a run that starts from a trained pair, on other images and often other classes."""

import dataclasses

import torch

from minivar.models import GPT, VAR, build
from minivar.tokenizer import VQVAE
from minivar.training.config import Preset

# A matter of the run, not of the weights.
REGULARISATION = ("label_dropout", "drop_path", "dropout", "revealed", "mistaken")


def adapted(preset: Preset, tokenizer: VQVAE, model: VAR | GPT) -> tuple[Preset, VQVAE]:
    """The preset with the shapes of a trained pair, and its tokenizer with the preset's image size if it has none.

    The preset says how to train, on images of what size where the tokenizer takes any, and how strongly to
    regularise. The number of classes is the pair's: replace ``model.num_classes`` by the data's.
    """
    if tokenizer.config.image_size is None:
        sized = VQVAE(dataclasses.replace(tokenizer.config, image_size=preset.tokenizer.image_size))
        sized.load_state_dict(tokenizer.state_dict())
        tokenizer = sized.eval()
    ours, theirs = preset.model, model.config
    kept = {name: getattr(ours, name) for name in REGULARISATION if hasattr(ours, name) and hasattr(theirs, name)}
    if isinstance(model, GPT):
        kept["grid"] = theirs.grid or tokenizer.config.latent_grid  # published files do not say
    return dataclasses.replace(
        preset, tokenizer=tokenizer.config, model=dataclasses.replace(theirs, **kept)
    ), tokenizer


def starting_weights(model: VAR | GPT, classes: int, seed: int) -> dict[str, torch.Tensor]:
    """The weights of a trained model for ``classes`` classes: the same, or with a new table of class embeddings.

    The new rows are drawn as for a new model. The null class, which stands for none of them, keeps its row: what an
    image looks like whatever it shows is worth keeping.
    """
    state = dict(model.state_dict())
    if classes == model.config.num_classes:
        return state
    torch.manual_seed(seed)
    fresh = build(dataclasses.replace(model.config, num_classes=classes, depth=1)).class_embed.weight.detach()
    fresh[-1] = state["class_embed.weight"][-1]
    return {**state, "class_embed.weight": fresh}
