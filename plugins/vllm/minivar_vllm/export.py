"""From a checkpoint of minivar's GPT to a folder that vLLM loads: ``config.json`` and ``model.safetensors``."""

import argparse
import dataclasses
import json
from pathlib import Path

from minivar import checkpoints
from minivar.files import CheckpointError, write_atomically
from minivar.models import GPT
from minivar_vllm import ARCHITECTURE, MODEL_TYPE


def export(gpt: GPT, folder: Path, guidance: float = 1.0, grid: tuple[int, int] | None = None) -> Path:
    """Write the folder and return it; ``checkpoints.load`` reads its ``model.safetensors`` too.

    ``guidance`` above 1 is that of every picture which this folder serves, as LlamaGen's has it. ``grid`` is for
    published transformers, which have none of their own. Raises ``ValueError`` for a GPT that vLLM cannot be given.
    """
    config = gpt.config
    if config.style != "llama" or config.caption_tokens:
        raise ValueError(
            f"The plugin serves GPTs of style llama, conditioned on a class; got style {config.style} and "
            f"{config.caption_tokens} caption tokens."
        )
    if not (config.grid or grid) or grid not in (None, config.grid or grid):
        raise ValueError(f"Expected a grid where the GPT has none, or the GPT's; got {grid} for {config.grid}.")
    if not 1 <= guidance < float("inf"):
        raise ValueError(f"Guidance must be a number of at least 1, which means none; got {guidance}.")
    own = dataclasses.asdict(dataclasses.replace(config, grid=config.grid or grid))
    about = {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "dtype": "float32",  # as stored; vLLM's ``dtype`` is what it computes in
        "guidance": guidance,
        "minivar": own,
    }
    folder = Path(folder)
    checkpoints.save(gpt, folder / "model.safetensors")
    write_atomically(folder / "config.json", lambda path: path.write_text(json.dumps(about, indent=2) + "\n"))
    return folder


def main(arguments: list[str] | None = None) -> None:
    """The command ``minivar-vllm-export``."""
    parser = argparse.ArgumentParser(description="Write a checkpoint of minivar's GPT as a folder for vLLM.")
    parser.add_argument("checkpoint", type=Path, help="a gpt.safetensors of minivar")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none, and half the work")
    parser.add_argument("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="if the checkpoint has none")
    given = parser.parse_args(arguments)
    try:
        gpt, _ = checkpoints.load(given.checkpoint, "GPT")
        export(gpt, given.folder, given.guidance, given.grid and tuple(given.grid))
    except (CheckpointError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    print(f"Wrote {given.folder}.")


if __name__ == "__main__":
    main()
