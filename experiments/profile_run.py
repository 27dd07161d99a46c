"""Where the time of a training run goes: the operations of a step of tokenizer and transformer, by kind.

python -m experiments.profile_run              # the preset of `make run`, on all cores
python -m experiments.profile_run emoji --steps 5

A step is the loop's own. Its milliseconds are measured without the profiler, the shares of the kinds with it.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from minivar import presets, training
from minivar.distributed import Ranks
from minivar.models import GPT, build
from minivar.tokenizer import VQVAE
from minivar.training import loop

# By how the name of an operation begins, after "aten::"; "_backward" belongs to what it is the gradient of.
KINDS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward", "_slow_conv", "thnn_conv"),
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "mkldnn::_linear"),
    "attention": ("_scaled_dot_product", "_flash_attention"),
    "norms": ("native_group_norm", "native_layer_norm", "linalg_vector_norm", "div"),  # attention's divides
    "GELU, SiLU": ("gelu", "silu"),
    "AdamW": ("_fused_adamw", "_foreach"),
    "copies": ("copy_", "cat", "fill_", "contiguous", "index", "masked_fill", "upsample", "pixel_"),
}
OTHER = "all other"


def kind_of(operation: str) -> str:
    """The kind of an operation of the profiler's."""
    name = operation.removeprefix("aten::")
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), OTHER)


def profile_steps(task: training.Task, config: training.TrainConfig, steps: int) -> tuple[float, dict[str, float]]:
    """Seconds of a step, and the share of each kind in the processor's time, of ``steps`` steps after three."""
    with tempfile.TemporaryDirectory() as folder:  # the run looks whether it could write there, and never does
        run = loop.Run(task, config, Path(folder), {}, Ranks())
    run.model.train()

    def some(first: int, count: int) -> None:
        for step in range(first, first + count):
            run.forward_and_backward(step)
            run.update(step)

    some(0, 3)
    clock = time.perf_counter()
    some(3, steps)
    seconds = (time.perf_counter() - clock) / steps
    with profile(activities=[ProfilerActivity.CPU]) as found:
        some(3 + steps, steps)
    spent = Counter()
    for event in found.key_averages():
        spent[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    return seconds, {kind: spent[kind] / total for kind in (*KINDS, OTHER)}


def main() -> None:
    """Print both phases of a preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="digits")
    parser.add_argument("--steps", type=int, default=20, help="to measure, and again to profile (default: 20)")
    args = parser.parse_args()
    preset = presets.get(args.preset)
    images = presets.training_set(preset)
    torch.manual_seed(0)
    tokenizer, model = VQVAE(preset.tokenizer), build(preset.model)
    phases = {  # made when their turn comes: the second freezes the tokenizer
        "tokenizer_train": lambda: training.TokenizerTask(tokenizer, images),
        "model_train": lambda: (training.GPTTask if isinstance(model, GPT) else training.VARTask)(
            model, tokenizer, images
        ),
    }
    for name, make in phases.items():
        task, config = make(), getattr(preset, name)
        total = training.total_steps(len(images), config)
        seconds, shares = profile_steps(task, config, args.steps)
        print(f"{task.name}: {1e3 * seconds:.0f} ms a step of {config.batch_size}, {total:,} steps: ", end="")
        print(f"{seconds * total / 60:.1f} minutes")
        for kind, share in sorted(shares.items(), key=lambda pair: -pair[1]):
            print(f"   {kind:16}{share:6.1%}")


if __name__ == "__main__":
    main()
