"""A folder that the Hugging Face Hub takes, from one that training filled: weights, configuration, model card.

The weights are minivar's own files, so that ``minivar.load`` opens the folder like any other. The card, with the
front matter that the Hub reads, is made by ``huggingface_hub``.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from minivar.checkpoints.own import FILES, load_pair, save
from minivar.files import CheckpointError, State
from minivar.models import Generator, caption_shape
from minivar.sampling import SETTINGS
from minivar.tokenizer import VQVAE, Pixels

PRECISIONS = {"float32": torch.float32, "float16": torch.float16}
METRICS = ("fid", "inception_score", "precision", "recall", "accuracy")  # those of the scores that the Hub lists
TASK = "unconditional-image-generation"  # the Hub has no word for images of classes
KEPT = ("preset", "dataset", "sampling", "trained")  # of a run's header; the others may name folders of its machine
CARD = """# {title}

A {kind} of {millions:.1f} million parameters, {how}, trained with minivar. It draws images of {image} pixels, of \
{classes} classes.

## How to load it

```python
from huggingface_hub import snapshot_download

import minivar, torch

tokenizer, model, header = minivar.load(snapshot_download("{repository}"))
labels = torch.arange({first})
images = minivar.generate(model, tokenizer, labels, **header["sampling"]).images  # in [0, 1]
```

The weights are stored in {precision}. `config.json` says what the models are made of, and so do the headers of the \
files. Drawn with other settings than `header["sampling"]`, images differ from those that were scored.

## Training

{training}

## Scores

{scores}
"""


def write_release(
    source: Path | str,
    out: Path | str,
    licence: str,
    repository: str | None = None,
    precision: str = "float32",
    scores: Mapping[str, object] | None = None,
    datasets: Sequence[str] = (),
) -> Path:
    """Write the pair in ``source`` into the new folder ``out``, as the Hub takes it; returns ``out``.

    ``licence`` is the Hub's identifier of one, such as "mit": nobody else can know it. ``repository``, "owner/name",
    is where it will lie; ``scores`` are what is known of its quality; ``datasets`` are the Hub's names of what it
    learned from, by default minivar's, if it is recorded. Raises ``CheckpointError``, and leaves nothing
    behind, where there is something at ``out``, the pair cannot be read, or weights do not fit into float16.
    """
    out = Path(out)
    if out.exists():
        raise CheckpointError(f"{out} exists: expected the name of a new folder, nothing is overwritten.")
    if precision not in PRECISIONS:
        raise CheckpointError(f"Unknown precision {precision!r}: expected one of {', '.join(PRECISIONS)}.")
    if not licence.strip():
        raise CheckpointError("A model card needs a licence: expected the Hub's name of one, such as mit; got none.")
    check_repository(repository)
    tokenizer, model, header = load_pair(source)
    if caption_shape(model.config):
        raise CheckpointError(
            f"{source} draws from captions, whose encoder no release holds: expected a model of classes."
        )
    kept = {"sampling": dataclasses.asdict(SETTINGS[type(model.config)]())}
    kept |= {key: header[key] for key in KEPT if header.get(key) is not None}
    datasets = list(datasets) or ([kept["dataset"]] if "dataset" in kept else [])
    files = {name: model for name, kind in FILES.items() if kind == type(model).__name__}
    if not isinstance(tokenizer, Pixels):
        files["tokenizer.safetensors"] = tokenizer
    states = {name: in_precision(name, module, precision) for name, module in files.items()}
    about = {"licence": licence, "precision": precision, "datasets": datasets}
    card = model_card(tokenizer, model, kept, repository or out.name, scores or {}, **about)
    config = {name: _described(module) for name, module in files.items()} | {"minivar": kept}
    temporary = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        for name, module in files.items():
            save(module, temporary / name, states[name], **(kept if module is model else {}))
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if scores:
            (temporary / "scores.json").write_text(json.dumps(dict(scores), indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        os.rename(temporary, out)  # whole, or not there
    except OSError as error:
        raise CheckpointError(f"Could not write {out} ({error}); nothing is left behind.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return out


def in_precision(name: str, module: nn.Module, precision: str) -> State:
    """The weights as they will be stored; ``CheckpointError`` if some are too large for float16."""
    state = {}
    for key, value in module.state_dict().items():
        state[key] = value.to(PRECISIONS[precision]) if value.is_floating_point() else value
        if value.is_floating_point() and value.isfinite().all() and not state[key].isfinite().all():
            raise CheckpointError(f"{key} of {name} has numbers beyond {precision}: expected precision float32.")
    return state


def _described(module: nn.Module) -> dict[str, object]:
    return {"kind": type(module).__name__, "config": dataclasses.asdict(module.config)}


# The card ---------------------------------------------------------------------------------------------------------


def model_card(
    tokenizer: VQVAE | Pixels,
    model: Generator,
    header: Mapping[str, object],
    repository: str,
    scores: Mapping[str, object],
    licence: str,
    precision: str,
    datasets: Sequence[str],
) -> str:
    """README.md of a model: front matter that the Hub reads, then what it is, how to load it, and its scores.

    Raises ``CheckpointError`` where ``huggingface_hub`` is not installed.
    """
    hub = _huggingface_hub("To write a model card")
    numbers = {key: value for key, value in scores.items() if isinstance(value, int | float)}
    listed = {key: numbers[key] for key in METRICS if key in numbers}
    learned_from = ", ".join(datasets)
    front = hub.ModelCardData(
        model_name=repository.split("/")[-1],
        license=licence,
        library_name="minivar",
        pipeline_tag=TASK,
        tags=["image-generation", "autoregressive", type(model).__name__.lower()],
        datasets=list(datasets) or None,
        metrics=list(listed) or None,
        eval_results=[hub.EvalResult(TASK, learned_from, learned_from, key, value) for key, value in listed.items()]
        if datasets
        else None,
    )
    in_pixels = isinstance(tokenizer, Pixels)
    size = (model.config.input_size,) * 2 if in_pixels else tokenizer.config.image_size or ("any", "any")
    rows = [f"| {key} | {value:.5g} |" for key, value in numbers.items()]
    text = CARD.format(
        title=repository.split("/")[-1],
        kind=type(model).__name__,
        millions=sum(p.numel() for module in (tokenizer, model) for p in module.parameters()) / 1e6,
        how="in pixels" if in_pixels else "tokenizer included",
        image=" x ".join(map(str, size)),
        classes=model.config.num_classes,
        first=min(10, model.config.num_classes),
        repository=repository,
        precision=precision,
        training=_training(header, datasets),
        scores="\n".join(["| what | value |", "|---|---|", *rows]) if rows else "None were measured.",
    )
    return str(hub.ModelCard(f"---\n{front.to_yaml()}\n---\n\n{text}"))


def _training(header: Mapping[str, object], datasets: Sequence[str]) -> str:
    preset = f"minivar's preset `{header['preset']}`" if header.get("preset") else "a preset that is not recorded"
    data = f", on {', '.join(datasets)}" if datasets else ""
    numbers = [f"{value:,} {what}" for what, value in header.get("trained", {}).items() if isinstance(value, int)]
    return f"By {preset}{data}{': ' + ', '.join(numbers) if numbers else ''}."


# The Hub ----------------------------------------------------------------------------------------------------------


def check_repository(repository: str | None) -> None:
    """Raise ``CheckpointError`` unless a repository, if there is one, is called as the Hub calls them."""
    if repository is not None and (repository.count("/") != 1 or not all(repository.split("/"))):
        raise CheckpointError(f"A repository of the Hub is called owner/name; got {repository!r:.80}.")


def upload(folder: Path, repository: str, public: bool = False) -> str:
    """Send a folder to the Hub as one commit; returns its address. A repository that is not there is made, private.

    What was in the repository before stays in its history. The token is that of ``hf auth login`` or of the
    environment variable HF_TOKEN. Raises ``CheckpointError`` where there is none, or the Hub refuses.
    """
    check_repository(repository)
    token = find_token()
    try:
        api = _huggingface_hub("To upload").HfApi(token=token)
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="minivar push")
    except Exception as error:  # the library and what it rests on raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"Could not upload {folder} to {repository} ({reason}): the folder is whole, and hf upload {repository} "
            f"{folder} sends it."
        ) from error
    return str(address)


def find_token() -> str:
    """The token that ``upload`` will use; ``CheckpointError`` if there is none."""
    token = _huggingface_hub("To upload").get_token()
    if not token:
        raise CheckpointError("To upload takes a token: expected one in HF_TOKEN or from hf auth login, got none.")
    return token


def _huggingface_hub(what: str):
    """The package, which is an extra."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{what} takes huggingface_hub, which is not installed: expected pip install 'minivar[hub]'."
        ) from error
    return huggingface_hub
