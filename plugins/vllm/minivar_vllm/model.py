"""minivar's GPT of style llama in vLLM's layers (V1 engine): one request is one picture, guided or not.

The class is the one token of the prompt, with an id behind the codebook's. LlamaGen's own model for vLLM gives it the
id of its class and tells the two tables apart by the largest position in the *batch*; so all pictures of a batch must
begin in the same step. Here the id decides, and a picture may join while others are half drawn.

Guidance: vLLM schedules requests one by one, and no request sees another's logits. So the two sequences, with the
class and without, are one request: two *streams*, side by side as heads are, through the same weights. Their tokens
are the same, only the first differs; attention treats heads alone anyway; and the logits meet in ``compute_logits``.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

from minivar.models.gpt import rotary_table, rotate
from minivar_vllm.weights import placed

# Shapes: T tokens of all requests in a step, S streams, h heads of this process, D width, E = D / H.


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), w1 and w3 in one product."""

    def __init__(self, width: int, hidden: int, quantization, prefix: str) -> None:
        super().__init__()
        both = [hidden, hidden]
        own = {"bias": False, "quant_config": quantization}
        self.gate_up = MergedColumnParallelLinear(width, both, prefix=f"{prefix}.gate_up", **own)
        self.activation = SiluAndMul()
        self.w2 = RowParallelLinear(hidden, width, prefix=f"{prefix}.w2", **own)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(self.activation(self.gate_up(x)[0]))[0]


class Block(nn.Module):
    """Pre-norm attention and MLP with residual connections, as ``minivar.models.gpt.GPTBlock``."""

    def __init__(self, config, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        gpt, quantization, self.head_dim = config.gpt, vllm_config.quant_config, config.head_dim
        own = {"bias": False, "quant_config": quantization}
        self.attention_norm, self.mlp_norm = (RMSNorm(gpt.width, eps=gpt.norm_eps) for _ in range(2))
        self.qkv = QKVParallelLinear(gpt.width, self.head_dim, gpt.heads, prefix=f"{prefix}.qkv", **own)
        self.proj = RowParallelLinear(gpt.width, gpt.width, prefix=f"{prefix}.proj", **own)
        self.mlp = SwiGLU(gpt.width, gpt.mlp_width, quantization, f"{prefix}.mlp")
        self.attention = Attention(
            config.num_attention_heads // get_tensor_model_parallel_world_size(),
            self.head_dim,
            self.head_dim**-0.5,
            cache_config=vllm_config.cache_config,
            quant_config=quantization,
            prefix=f"{prefix}.attention",
        )

    def forward(self, x_SD: Tensor, table_T1E2: Tensor) -> Tensor:
        """``x_SD`` (T S, D): the streams of a token are neighbours. ``table_T1E2``: angles of the T positions."""
        length, qkv = len(table_T1E2), self.qkv(self.attention_norm(x_SD))[0]
        q, k, v = (each.reshape(length, -1, self.head_dim) for each in qkv.chunk(3, dim=-1))  # (T, S h, E)
        out = self.attention(rotate(q, table_T1E2).flatten(1), rotate(k, table_T1E2).flatten(1), v.flatten(1))
        x_SD = x_SD + self.proj(out.reshape(len(x_SD), -1))[0]
        return x_SD + self.mlp(self.mlp_norm(x_SD))


class MinivarForCausalLM(nn.Module):
    """What vLLM's engine calls: ``forward``, ``compute_logits``, ``load_weights``."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = config = vllm_config.model_config.hf_config
        gpt = config.gpt
        self.embed = VocabParallelEmbedding(config.vocab_size, gpt.width)
        self.blocks = nn.ModuleList(
            Block(config, vllm_config, f"{prefix}.blocks.{i}".lstrip(".")) for i in range(gpt.depth)
        )
        self.norm = RMSNorm(gpt.width, eps=gpt.norm_eps)
        self.head = ParallelLMHead(gpt.codebook_size, gpt.width, prefix=f"{prefix}.head".lstrip("."))
        self.logits_processor = LogitsProcessor(gpt.codebook_size)
        self.register_buffer("table_LE2", rotary_table(gpt, gpt.grid), persistent=False)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """(T,) int -> (T, S D); in the second stream, where there is one, the null class in place of the class."""
        ids = [input_ids]
        if self.config.streams > 1:
            ids.append(torch.where(input_ids < self.config.gpt.codebook_size, input_ids, self.config.vocab_size - 1))
        return self.embed(torch.stack(ids, dim=1).flatten()).reshape(len(input_ids), -1)

    def forward(
        self, input_ids: Tensor, positions: Tensor, intermediate_tensors=None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """Tokens and positions of all requests in this step, (T,) each -> hidden states (T, S D)."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        x, table = x.reshape(len(positions) * self.config.streams, -1), self.table_LE2[positions][:, None]
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x).reshape(len(positions), -1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """(n, S D) -> (n, V + classes + 1) float32: the streams mixed, and no class can ever be drawn."""
        streams = self.config.streams
        logits = self.logits_processor(self.head, hidden_states.reshape(len(hidden_states) * streams, -1))
        if logits is None:  # with tensor parallelism only the first process has them
            return None
        logits = logits.float()
        if streams > 1:
            with_nV, without_nV = logits.unflatten(0, (-1, streams)).unbind(1)
            logits = without_nV + self.config.guidance * (with_nV - without_nV)
        return F.pad(logits, (0, self.config.vocab_size - logits.shape[-1]), value=float("-inf"))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """minivar's tensors, by minivar's names; returns the names of what was loaded, for vLLM to check."""
        parameters, loaded = dict(self.named_parameters()), set()
        for name, half, tensor in placed(weights):
            parameter = parameters[name]
            loader = getattr(parameter, "weight_loader", lambda own, given: own.data.copy_(given))
            loader(parameter, tensor) if half is None else loader(parameter, tensor, half)
            loaded.add(name)
        return loaded
