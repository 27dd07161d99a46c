"""The plain reference: VAR and LlamaGen straight from their published design, on minivar's weights.

Nothing here is clever and nothing is slow on purpose. Keys and values are concatenated as they come, attention in
training goes by a dense mask, AdaLN is computed anew at every scale for both halves of the guided batch, images are
resized by interpolation, and convolutions run in the order in which memory comes. All of it reads the names of
minivar's checkpoints, which are a promise, and not its modules, which may change. ``tests/test_bench.py`` holds it to
the package: the same tokens, images, losses and gradients.
"""

from experiments.bench.reference.gpt import ReferenceGPT
from experiments.bench.reference.tokenizer import ReferenceTokenizer
from experiments.bench.reference.training import ReferenceTraining
from experiments.bench.reference.var import ReferenceVAR

__all__ = ["ReferenceGPT", "ReferenceTokenizer", "ReferenceTraining", "ReferenceVAR"]
