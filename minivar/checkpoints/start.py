"""A trained pair to start from, whoever trained it: minivar's own files, or the published ones of VAR or LlamaGen."""

from pathlib import Path

from minivar.checkpoints.llamagen import from_llamagen_gpt, from_llamagen_tokenizer
from minivar.checkpoints.own import load_pair
from minivar.checkpoints.var import from_var
from minivar.files import CheckpointError
from minivar.models import GPT, VAR
from minivar.tokenizer import VQVAE

# Published names: of the tokenizer's file, of the transformer's, and what to make of them.
PUBLISHED_FILES = {
    "VAR": ("vae_*.pth", "var_d*.pth"),
    "LlamaGen": ("vq_ds*_c2i.pt", "c2i_*.pt"),
}


def load_any_pair(folder: Path | str) -> tuple[VQVAE, VAR | GPT, str | None]:
    """Tokenizer and transformer in eval mode, and the preset they were trained by where the files say so.

    ``folder`` holds what minivar's training wrote (``load_pair``), or one published tokenizer and one published
    transformer under their published names. Raises ``CheckpointError`` for anything else.
    """
    folder = Path(folder)
    for source, patterns in PUBLISHED_FILES.items():
        found = [sorted(folder.glob(pattern)) for pattern in patterns]
        if all(len(files) == 1 for files in found):
            files = [files[0] for files in found]
            if source == "VAR":
                return *from_var(*files), None
            return from_llamagen_tokenizer(files[0]), from_llamagen_gpt(files[1]), None
    if not (folder / "tokenizer.safetensors").is_file():
        pairs = " or ".join(f"one {first} and one {second}" for first, second in PUBLISHED_FILES.values())
        raise CheckpointError(
            f"{folder} holds nothing to start from: expected minivar's tokenizer.safetensors and var.safetensors (or "
            f"gpt.safetensors), or published files, {pairs}."
        )
    tokenizer, model, header = load_pair(folder)
    return tokenizer, model, header.get("preset")
