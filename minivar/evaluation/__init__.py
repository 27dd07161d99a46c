"""How good samples and reconstructions are: distances, judges, the published protocol and its results."""

from minivar.evaluation.captions import (
    CaptionJudge,
    also_true,
    caption_loss,
    load_caption_judge,
    retrieval_of_captions,
)
from minivar.evaluation.contrast import ContrastConfig, ContrastJudge, contrast_loss, layout, retrieval
from minivar.evaluation.evaluating import (
    compare_pictures,
    draw,
    embedded_judge,
    score_samples,
    score_tokenizer,
    share_of_labels,
)
from minivar.evaluation.inception import load_inception
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
from minivar.evaluation.pictures import Pictures, write_npz, write_pngs
from minivar.evaluation.protocol import open_samples, read_samples, write_samples
from minivar.evaluation.published import RELEASED, RESULTS, Result
from minivar.evaluation.rejection import candidates, draw_accepted, surest
from minivar.evaluation.results import ProtocolError, scores_of, table
from minivar.evaluation.scoring import OTHERS, agreement, compare, frequency_loss, judge, judge_digits, novelty

__all__ = [
    "OTHERS",
    "RELEASED",
    "RESULTS",
    "WORLDS",
    "CaptionJudge",
    "ClassifierConfig",
    "ContrastConfig",
    "ContrastJudge",
    "DigitClassifier",
    "Moments",
    "Pictures",
    "ProtocolError",
    "Result",
    "agreement",
    "also_true",
    "bootstrap_interval",
    "candidates",
    "caption_loss",
    "codebook_usage",
    "compare",
    "compare_pictures",
    "contrast_loss",
    "draw",
    "draw_accepted",
    "embedded_judge",
    "frechet_distance",
    "frequency_loss",
    "in_batches",
    "inception_score",
    "judge",
    "judge_digits",
    "judges_of",
    "layout",
    "load_caption_judge",
    "load_contrast_judge",
    "load_digit_classifier",
    "load_inception",
    "novelty",
    "open_samples",
    "precision_recall",
    "psnr",
    "read_samples",
    "reconstruction_error",
    "retrieval",
    "retrieval_of_captions",
    "score_samples",
    "score_tokenizer",
    "scores_of",
    "share_in_queue",
    "share_of_labels",
    "ssim",
    "surest",
    "table",
    "write_npz",
    "write_pngs",
    "write_samples",
]
