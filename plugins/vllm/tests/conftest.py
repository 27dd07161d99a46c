"""Models to serve; the plugin need not be installed, but for the test of its entry point."""

import os
import sys
from pathlib import Path

import pytest
import torch

PLUGIN = Path(__file__).parents[1]
ROOT = PLUGIN.parents[1]
sys.path[:0] = [str(PLUGIN), str(ROOT), str(PLUGIN / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGIN), str(ROOT)])  # vLLM looks at a model in a process of its own
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from minivar import checkpoints  # noqa: E402
from minivar.models import GPT, GPTConfig  # noqa: E402


@pytest.fixture
def gpt() -> GPT:
    """Small, of a grid that is not square, with a head that is not zero."""
    torch.manual_seed(0)
    config = GPTConfig(depth=2, width=64, heads=2, grid=(3, 5), codebook_size=50, num_classes=7, hidden=96)
    gpt = GPT(config).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.2)
    return gpt


@pytest.fixture(scope="session")
def shipped() -> GPT:
    """The LlamaGen-style transformer of chapter 08."""
    return checkpoints.load(ROOT / "data/checkpoints/duel-llamagen/gpt.safetensors", "GPT")[0]


@pytest.fixture(scope="session")
def guided_logits():
    """minivar's own, teacher-forced: (gpt, classes (B,), tokens (B, n), guidance) -> (B, n + 1, V)."""

    @torch.no_grad()
    def compute(gpt: GPT, labels: torch.Tensor, tokens: torch.Tensor, guidance: float) -> torch.Tensor:
        with_class = gpt(labels, tokens)
        if guidance == 1:
            return with_class
        without = gpt(gpt.null_condition(labels), tokens)
        return without + guidance * (with_class - without)

    return compute
