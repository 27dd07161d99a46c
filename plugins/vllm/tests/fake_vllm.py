"""vLLM's layers in plain PyTorch, one process, no cache: what model.py takes from vLLM, and nothing else.

So the mathematics of model.py can be tried where vLLM cannot be installed. ``LENGTHS``: of the requests whose tokens
lie one behind another in a batch.
"""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

LENGTHS: list[int] = []


class Linear(nn.Linear):
    def __init__(self, inputs, outputs, bias=True, quant_config=None, prefix=""):
        super().__init__(inputs, outputs, bias)

    def forward(self, x):
        return super().forward(x), None


class QKVParallelLinear(Linear):
    def __init__(self, width, head_dim, heads, **own):
        super().__init__(width, 3 * heads * head_dim, **own)


class MergedColumnParallelLinear(Linear):
    def __init__(self, inputs, outputs, **own):
        super().__init__(inputs, sum(outputs), **own)
        self.weight.weight_loader = lambda own, given, half: own.data.chunk(len(outputs))[half].copy_(given)


class SiluAndMul(nn.Module):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class Embedding(nn.Embedding):
    def __init__(self, rows, width, prefix=""):
        super().__init__(rows, width)


class LogitsProcessor(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()

    def forward(self, head, hidden):
        return hidden @ head.weight.T


class Attention(nn.Module):
    def __init__(self, heads, head_dim, scale, cache_config=None, quant_config=None, prefix=""):
        super().__init__()
        self.heads, self.scale = heads, scale

    def forward(self, q, k, v):
        out = []
        for each in zip(*(x.split(LENGTHS) for x in (q, k, v))):
            q1, k1, v1 = (x.unflatten(1, (self.heads, -1)).transpose(0, 1) for x in each)
            done = F.scaled_dot_product_attention(q1, k1, v1, is_causal=True, scale=self.scale)
            out.append(done.transpose(0, 1).flatten(1))
        return torch.cat(out)


class PretrainedConfig:
    def __init__(self, **kwargs):
        pass


LAYERS = "vllm.model_executor.layers."
MODULES = {
    "vllm": {},
    "vllm.config": {"VllmConfig": SimpleNamespace},
    "vllm.distributed": {"get_tensor_model_parallel_world_size": lambda: 1},
    LAYERS + "activation": {"SiluAndMul": SiluAndMul},
    LAYERS + "attention": {"Attention": Attention},
    LAYERS + "layernorm": {"RMSNorm": nn.RMSNorm},
    LAYERS + "linear": {
        "MergedColumnParallelLinear": MergedColumnParallelLinear,
        "QKVParallelLinear": QKVParallelLinear,
        "RowParallelLinear": Linear,
    },
    LAYERS + "logits_processor": {"LogitsProcessor": LogitsProcessor},
    LAYERS + "vocab_parallel_embedding": {"ParallelLMHead": Embedding, "VocabParallelEmbedding": Embedding},
}


def install(monkeypatch) -> None:
    """In place of vLLM for one test, and of transformers where there is none."""
    fakes = dict(MODULES)
    if importlib.util.find_spec("transformers") is None:
        fakes["transformers"] = {"PretrainedConfig": PretrainedConfig}
    for name, content in fakes.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("minivar_vllm.config", "minivar_vllm.model"):  # to be imported anew now, and forgotten afterwards
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
        monkeypatch.delitem(sys.modules, name)
