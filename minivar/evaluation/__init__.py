"""How good samples and reconstructions are: distances, judges, the published protocol and its results."""

from minivar.evaluation.judges import ClassifierConfig, DigitClassifier, judge_digits, load_digit_classifier
from minivar.evaluation.metrics import (
    codebook_usage,
    frechet_distance,
    in_batches,
    precision_recall,
    reconstruction_error,
)
from minivar.evaluation.protocol import read_samples, write_samples
from minivar.evaluation.results import RELEASED, RESULTS, ProtocolError, Result, scores_of, table

__all__ = [
    "RELEASED",
    "RESULTS",
    "ClassifierConfig",
    "DigitClassifier",
    "ProtocolError",
    "Result",
    "codebook_usage",
    "frechet_distance",
    "in_batches",
    "judge_digits",
    "load_digit_classifier",
    "precision_recall",
    "read_samples",
    "reconstruction_error",
    "scores_of",
    "table",
    "write_samples",
]
