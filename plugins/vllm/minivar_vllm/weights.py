"""Which tensor of minivar's GPT goes where in the model for vLLM; no vLLM needed."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

EMBEDS = ("token_embed.weight", "class_embed.weight")  # in the order of their rows in the one table
MERGED = {".mlp.w1.": 0, ".mlp.w3.": 1}  # two products in one: half of ``.mlp.gate_up.``


def placed(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, int | None, Tensor]]:
    """minivar's (name, tensor) in any order -> (name in the model for vLLM, half of that tensor or None, tensor).

    The vocabulary is that of codes with the classes behind it: class c is token V + c. All other names are the same.
    Raises ``ValueError`` if one of the two embeddings is missing.
    """
    embeds = {}
    for name, tensor in weights:
        half = next((part for part in MERGED if part in name), None)
        if name in EMBEDS:
            embeds[name] = tensor
        elif half:
            yield name.replace(half, ".mlp.gate_up."), MERGED[half], tensor
        else:
            yield name, None, tensor
    if missing := [name for name in EMBEDS if name not in embeds]:
        raise ValueError(f"Expected the weights of a class-conditional GPT; {' and '.join(missing)} is missing.")
    yield "embed.weight", None, torch.cat([embeds[name] for name in EMBEDS])
