"""minivar: visual autoregressive modelling, from pixels to tokens and back, in code that is meant to be read.

    tokenizer, model, header = minivar.load("data/checkpoints/digits")
    images = minivar.sample(model, tokenizer, labels).images

Data flows one way, image -> features -> tokens -> logits -> tokens -> image, and so do the rooms of this house; each
imports from those above it only:

============= ======================================================================================================
scales        the scale schedule: which grids the token pyramid has; everything rests on it
checks        what a configuration may hold
precision     where numbers must stay in float32
allocation    memory that a process keeps
files         atomic writes, checksums, tensors on disk
distributed   which process am I, and what do the others have
data          images and labels in: digits, emoji, folders, shards, views, batches
tokenizer     image <-> tokens: convolutional nets, quantisers, VQVAE, losses, token caches
models        tokens -> logits: VAR (next scale), GPT (next token)
sampling      logits -> tokens -> image: filters, KV cache, the loops, zero-shot editing
checkpoints   models on disk: our own format, the published files of VAR and LlamaGen
evaluation    how good samples are: metrics, judges, the published protocol
training      configuration, schedules, tasks, the loop, many GPUs
presets       all numbers of a run, a file a family
analysis      what an image and a run cost
serving       many who ask at once: batches that are joined and left, a queue, a page and an API
book          what only the notebooks call: figures, explorers, exercises
cli           the command line, a file a command
============= ======================================================================================================

Shape legend, used as suffixes of tensor names throughout (``logits_BLV`` has shape (B, L, V)):

====== =============================== ====== ===============================
B      batch                           V      codebook size (vocabulary)
L      tokens of all scales            l      tokens of the current scale
K      number of scales                k      index of a scale, from 0
C      channels of a code (latent)     D      width of the transformer
H      attention heads                 E      width of one head, D / H
h, w   rows and columns of a latent    height, width   rows and columns of pixels
====== =============================== ====== ===============================
"""

from minivar.checkpoints import load_pair as load
from minivar.sampling import edit, generate, sample, sample_raster

__version__ = "0.1.0"
__all__ = ["edit", "generate", "load", "sample", "sample_raster"]
