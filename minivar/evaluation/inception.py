"""InceptionV3, in whose features FID and its companions are published: torch-fidelity's, with the original weights.

The library converts the network that guided diffusion's evaluator uses, its way of resizing included, so that scores
are those of the papers up to rounding. Offline, ``weights`` is a file of the library's.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minivar.evaluation.results import ProtocolError


def load_inception(
    weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Pictures uint8 (B, 3, H, W) -> features (B, 2048), and probabilities (B, 1008) for the Inception Score.

    ``weights=None`` takes those that the library keeps, or downloads. Raises ``ProtocolError`` where there are none.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise ProtocolError('InceptionV3 is torch-fidelity\'s: expected pip install "minivar[scale]".') from error
    try:
        names = ["2048", "logits_unbiased"]  # the score of guided diffusion's evaluator leaves the bias out as well
        network = FeatureExtractorInceptionV3("inception", names, None if weights is None else str(weights))
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProtocolError(
            f"No weights of InceptionV3 ({why:.80}): expected torch-fidelity's, as "
            "--inception-weights FILE where they cannot be downloaded."
        ) from error
    network = network.to(device).eval()

    @torch.no_grad()
    def judge(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(pixels.to(device))
        return features, logits.softmax(-1)

    return judge
