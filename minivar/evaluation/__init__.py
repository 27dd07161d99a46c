"""How good samples and reconstructions are: distances, judges, the published protocol and its results."""

from minivar.evaluation.contrast import ContrastConfig, ContrastJudge, contrast_loss, layout, retrieval
from minivar.evaluation.judges import (
    WORLDS,
    ClassifierConfig,
    DigitClassifier,
    judges_of,
    load_contrast_judge,
    load_digit_classifier,
)
from minivar.evaluation.metrics import (
    Moments,
    bootstrap_interval,
    codebook_usage,
    frechet_distance,
    in_batches,
    inception_score,
    precision_recall,
    psnr,
    reconstruction_error,
    share_in_queue,
    ssim,
)
from minivar.evaluation.protocol import read_samples, write_samples
from minivar.evaluation.results import RELEASED, RESULTS, ProtocolError, Result, scores_of, table
from minivar.evaluation.scoring import agreement, compare, judge, judge_digits, novelty

__all__ = [
    "WORLDS",
    "agreement",
    "compare",
    "judge",
    "judges_of",
    "load_contrast_judge",
    "novelty",
    "retrieval",
    "layout",
    "contrast_loss",
    "ContrastJudge",
    "ContrastConfig",
    "RELEASED",
    "RESULTS",
    "ClassifierConfig",
    "DigitClassifier",
    "Moments",
    "ProtocolError",
    "Result",
    "bootstrap_interval",
    "codebook_usage",
    "frechet_distance",
    "in_batches",
    "inception_score",
    "judge_digits",
    "load_digit_classifier",
    "precision_recall",
    "psnr",
    "read_samples",
    "reconstruction_error",
    "scores_of",
    "share_in_queue",
    "ssim",
    "table",
    "write_samples",
]
