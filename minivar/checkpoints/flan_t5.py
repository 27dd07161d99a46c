"""Features of captions for published LlamaGen weights: FLAN-T5's, through the package ``transformers``.

LlamaGen (arXiv 2406.06525, section 2.3; its code, ``language/t5.py`` and ``sample_t2i.py``) feeds 120 features of
FLAN-T5-XL's encoder, 2048 numbers each, padded on the left with zeros.
DEVIATION: of the published cleaning of captions, written for captions found on the web, only lower case and single
spaces are done here. And a caption that is too long is refused, where the published code cuts it off.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from minivar.files import CheckpointError

MODEL, TOKENS = "google/flan-t5-xl", 120


def left_padded(features_BTD: Tensor, here_BT: Tensor) -> Tensor:
    """Features padded on the right, and 1 where a word is -> the same, padded on the left with zeros."""
    rows = [
        torch.cat([row.new_zeros(len(row) - int(here.sum()), row.shape[-1]), row[here.bool()]])
        for row, here in zip(features_BTD, here_BT, strict=True)
    ]
    return torch.stack(rows)


@torch.no_grad()
def caption_features(
    texts: Sequence[str],
    model: str = MODEL,
    tokens: int = TOKENS,
    dim: int | None = None,
    offline: bool | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Captions -> float32 features (B, tokens, dim), as a GPT of captions reads them.

    ``model`` is a name on the Hub, or a folder with the files of one. ``dim``, if given, is what they must have.
    Raises ``CheckpointError``, in one sentence, where ``transformers`` is not installed, the model cannot be had or
    is another than expected, or a text is empty or too long.
    """
    cleaned = [" ".join(text.lower().split()) for text in texts]
    if not cleaned or not all(cleaned):
        raise CheckpointError(f"A caption needs words; got {list(texts)!r:.80}.")
    tokenizer, encoder = _load(model, offline)
    width = encoder.config.d_model
    if dim not in (None, width):
        raise CheckpointError(f"{model} makes features of {width} numbers, and the transformer expects {dim}.")
    lengths = [len(ids) for ids in tokenizer(cleaned)["input_ids"]]
    if max(lengths) > tokens:
        longest = cleaned[lengths.index(max(lengths))]
        raise CheckpointError(f"A caption may have {tokens} tokens; got {max(lengths)}, {longest!r:.80}.")
    found = tokenizer(cleaned, max_length=tokens, padding="max_length", return_tensors="pt").to(device)
    encoder = encoder.to(device).eval()
    out = encoder(input_ids=found["input_ids"], attention_mask=found["attention_mask"])
    return left_padded(out.last_hidden_state.float(), found["attention_mask"])


def _load(model: str, offline: bool | None):
    """Its tokenizer and its encoder."""
    try:
        from transformers import AutoTokenizer, T5EncoderModel  # here, because it is no dependency of minivar's
    except ImportError as error:
        raise CheckpointError(
            f"Captions for published weights take transformers, which is not installed: expected pip install "
            f"transformers sentencepiece, and the files of {model}."
        ) from error
    try:
        options = {"local_files_only": bool(offline)}
        return AutoTokenizer.from_pretrained(model, **options), T5EncoderModel.from_pretrained(model, **options)
    except Exception as error:  # the library and what it rests on raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"Could not load the text encoder {model} ({reason:.200}): expected a network or, with --text-encoder, a "
            "folder with the files of FLAN-T5."
        ) from error
