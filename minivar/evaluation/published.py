"""The tables of the papers, ImageNet at 256 and 512 pixels, as they print them; None where nothing was published.

VAR, arXiv 2404.02905: tables 1 to 3. LlamaGen, arXiv 2406.06525. "-re" is rejection sampling: only what a classifier
is surest of is kept (``rejection``). Times are those of the papers, relative to VAR-d30 at 256 and to VAR-d36-s at
512 pixels; VQGAN's were taken over from MaskGIT's paper. Explained in ``notebooks/12_rivals.ipynb``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One row of the papers' tables."""

    name: str
    kind: str  # GAN, diffusion, masked, raster or next scale
    pixels: int
    millions: float | None  # of parameters, tokenizer or decoder not counted
    steps: int | None  # forward passes for an image
    fid: float
    inception_score: float | None = None
    precision: float | None = None
    recall: float | None = None
    time: float | None = None
    preset: str = ""  # whose full run fills the last column


VAR_256 = (
    Result("BigGAN", "GAN", 256, 112, 1, 6.95, 224.5, 0.89, 0.38),
    Result("GigaGAN", "GAN", 256, 569, 1, 3.45, 225.5, 0.84, 0.61),
    Result("StyleGAN-XL", "GAN", 256, 166, 1, 2.30, 265.1, 0.78, 0.53, 0.3),
    Result("ADM", "diffusion", 256, 554, 250, 10.94, 101.0, 0.69, 0.63, 168),
    Result("CDM", "diffusion", 256, None, 8100, 4.88, 158.7),
    Result("LDM-4-G", "diffusion", 256, 400, 250, 3.60, 247.7),
    Result("DiT-L/2", "diffusion", 256, 458, 250, 5.02, 167.2, 0.75, 0.57, 31),
    Result("DiT-XL/2", "diffusion", 256, 675, 250, 2.27, 278.2, 0.83, 0.57, 45),
    Result("MaskGIT", "masked", 256, 227, 8, 6.18, 182.1, 0.80, 0.51, 0.5),
    Result("VQVAE-2", "raster", 256, 13_500, 5120, 31.11, 45, 0.36, 0.57),
    Result("VQGAN, raster", "raster", 256, 227, 256, 18.65, 80.4, 0.78, 0.26, 19),
    Result("VQGAN, raster", "raster", 256, 1400, 256, 15.78, 74.3, time=24),
    Result("VQGAN-re", "raster", 256, 1400, 256, 5.20, 280.3, time=24),
    Result("ViTVQ-re", "raster", 256, 1700, 1024, 3.04, 227.4, time=24),  # "> 24"
    Result("RQTran-re", "raster", 256, 3800, 68, 3.80, 323.7, time=21),
    Result("VAR-d16", "next scale", 256, 310, 10, 3.30, 274.4, 0.84, 0.51, 0.4, "var-d16"),
    Result("VAR-d20", "next scale", 256, 600, 10, 2.57, 302.6, 0.83, 0.56, 0.5, "var-d20"),
    Result("VAR-d24", "next scale", 256, 1000, 10, 2.09, 312.9, 0.82, 0.59, 0.6, "var-d24"),
    Result("VAR-d30", "next scale", 256, 2000, 10, 1.92, 323.1, 0.82, 0.59, 1, "var-d30"),
    Result("VAR-d30-re", "next scale", 256, 2000, 10, 1.73, 350.2, 0.82, 0.60, 1),
)
VALIDATION = Result("validation images", "real", 256, None, None, 1.78, 236.9, 0.75, 0.67)  # LlamaGen: FID 1.684
VAR_512 = (
    Result("BigGAN", "GAN", 512, None, 1, 8.43, 177.9),
    Result("ADM", "diffusion", 512, None, 250, 23.24, 101.0),
    Result("DiT-XL/2", "diffusion", 512, 675, 250, 3.04, 240.8, time=81),
    Result("MaskGIT", "masked", 512, None, None, 7.32, 156.0, time=0.5),
    Result("VQGAN, raster", "raster", 512, None, None, 26.52, 66.8, time=25),
    Result("VAR-d36-s", "next scale", 512, 2354, 10, 2.63, 303.2, time=1, preset="var-d36-s"),
)
# 384 pixels reduced to 256 for the evaluator, each at its best guidance; B and L at 256 too, 3B there for 50 epochs
LLAMAGEN = (
    Result("LlamaGen-B", "raster", 256, 111, 256, 5.46, preset="llamagen-b-256"),
    Result("LlamaGen-L", "raster", 256, 343, 256, 3.80, preset="llamagen-l-256"),
    Result("LlamaGen-3B", "raster", 256, 3097, 256, 3.05, preset="llamagen-3b-256"),
    Result("LlamaGen-B", "raster", 384, 111, 576, 6.09, 182.5, 0.845, 0.416, preset="llamagen-b-384"),
    Result("LlamaGen-L", "raster", 384, 343, 576, 3.07, 256.1, 0.83, 0.52, preset="llamagen-l-384"),
    Result("LlamaGen-XL", "raster", 384, 775, 576, 2.62, 244.1, 0.80, 0.57, preset="llamagen-xl-384"),
    Result("LlamaGen-XXL", "raster", 384, 1411, 576, 2.34, 253.9, 0.80, 0.59, preset="llamagen-xxl-384"),
    Result("LlamaGen-3B", "raster", 384, 3097, 576, 2.18, 263.3, 0.81, 0.58, preset="llamagen-3b-384"),
)
RESULTS = (*VAR_256, *LLAMAGEN, VALIDATION, *VAR_512)

# FID of the files that VAR's authors released, from the README of their code
RELEASED = {"var-d16": 3.55, "var-d20": 2.95, "var-d24": 2.33, "var-d30": 1.97, "var-d36-s": 2.63}


@dataclass(frozen=True)
class Rung:
    """One step of the paper's ablation (table 3): what was added, millions of parameters, cost relative to AR."""

    name: str
    millions: float
    cost: float
    fid: float


LADDER = (
    Rung("raster (AR)", 227, 1, 18.65),
    Rung("next scale", 207, 0.013, 5.22),
    Rung("+ AdaLN", 310, 0.016, 4.95),
    Rung("+ top-k", 310, 0.016, 4.64),
    Rung("+ guidance", 310, 0.022, 3.60),
    Rung("+ attention norm", 310, 0.022, 3.30),
    Rung("larger (d30)", 2000, 0.052, 1.73),
)

# LlamaGen: rFID of its tokenizers, {pixels an input has: rFID}, by how many pixels a side one token stands for
TOKENIZERS = {16: {256: 2.19, 384: 0.94, 512: 0.70}, 8: {256: 0.59, 384: 0.37, 512: 0.39}}
# LlamaGen-L at 384 pixels: FID by guidance, and by how many of the 16,384 codes may be drawn
BY_GUIDANCE = {1.5: 4.74, 1.75: 3.15, 2.0: 3.07, 2.25: 3.62}
BY_TOP_K = {16_384: 3.07, 8_000: 3.64, 4_000: 4.63, 2_000: 6.00, 1_000: 7.43}
