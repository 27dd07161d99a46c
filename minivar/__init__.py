"""minivar: visual autoregressive modelling, from pixels to tokens and back, in code that is meant to be read.

Data flows one way: image -> features -> tokens -> logits -> tokens -> image. The modules, in that order, are
``scales``, ``data``, ``nets``, ``quantizers``, ``tokenizer``, ``transformer``, ``sampler`` and ``edit``;
``train``, ``checkpoints``, ``presets``, ``metrics``, ``plots`` and ``cli`` are what one does with them.

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

__version__ = "0.1.0"
