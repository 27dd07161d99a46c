"""The head-to-head of chapter 08a and the rivals of chapter 12, nine sides and one training loop.

python -m experiments.rivals train           # all runs in their order; two of these may work side by side
python -m experiments.rivals train rates     # the runs of one part of the plan: rates, seeds, depth, rungs, time ...
python -m experiments.rivals collect         # results of finished runs -> data/results/rivals.json
python -m experiments.rivals reconstructions  # of every tokenizer, judged as samples are
python -m experiments.rivals frontier        # of seed 0: precision and recall over guidance and nucleus
python -m experiments.rivals rejection       # of three seeds of two sides: what a classifier's choice does and costs
python -m experiments.rivals seconds         # of seed 0: how long an image takes, on a quiet machine

What is compared, on the digits (for the emoji see presets.duel). Equal parameters: 1.00 million, within .3 %, of a
transformer over 7 x 7 latent cells (of DiT in pixels: patches). Equal images: 96,000, in the same order. Optimiser,
schedule of the rate, views, nets and the size of the codebook are the same for all sides. Seed i of a transformer has
the tokenizer of seed i mod 3, which is trained again on a machine where it is not there: not to the same last bit.

What is chosen, and on what. The learning rate of every side: the best of the same three by the loss of the 800
validation digits, in runs of a third of the length with a seed of their own, and the next one outwards while the best
lies at the edge. Guidance, of the same values for every side: by 800 samples of a seed of their own against the
validation digits, the smallest mean of both judges' Frechet ratios; of VAR also whether it ramps up over the scales,
as in the paper, or is the same for all of them, as in raster order; of MaskGIT also the noise of its choice. What is
reported are 2,000 samples against the held-out digits, and as many without guidance or filters ("plain").

Beside equal images: equal time ("time": every side that is quicker to train goes on for VAR's minutes); equal depth
("depth": what AdaLN costs in parameters is not made up by a fourth block), rungs of the paper's ablation that need
a training of their own ("rungs"), and the tokenizer's own questions ("variants").

A run takes six to twelve minutes of one core, scores included, of DiT twenty: set OMP_NUM_THREADS=1. Runs resume, and
those in rivals.json are not repeated. Runs and their checkpoints lie in runs/rivals; results are kept beside them
until they are collected.
"""
