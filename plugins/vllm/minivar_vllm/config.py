"""What vLLM asks of a model's configuration, answered from minivar's own."""

import math

from transformers import PretrainedConfig

from minivar.files import config_from_dict
from minivar.models import GPTConfig
from minivar_vllm import MODEL_TYPE


class MinivarConfig(PretrainedConfig):
    """``config.json`` of an exported folder holds ``minivar``, a GPTConfig as a dictionary, and ``guidance``.

    All else follows from the two, and so stays right when vLLM's ``hf_overrides`` changes the guidance.
    """

    model_type = MODEL_TYPE

    def __init__(self, minivar: dict | None = None, guidance: float = 1.0, **kwargs) -> None:
        self.minivar, self.guidance = minivar or {}, guidance
        super().__init__(**{"tie_word_embeddings": False, **kwargs})

    @property
    def gpt(self) -> GPTConfig:
        """minivar's configuration."""
        return config_from_dict(GPTConfig, self.minivar)

    @property
    def streams(self) -> int:
        """Sequences that a request stands for: with guidance two, with its class and without."""
        return 2 if self.guidance > 1 else 1

    @property
    def vocab_size(self) -> int:
        """Codes, then classes, then the null class."""
        return self.gpt.codebook_size + self.gpt.num_classes + 1

    @property
    def max_position_embeddings(self) -> int:
        """The class and all tokens of the image."""
        return 1 + math.prod(self.gpt.grid)

    @property
    def hidden_size(self) -> int:
        """D."""
        return self.gpt.width

    @property
    def num_hidden_layers(self) -> int:
        """Blocks."""
        return self.gpt.depth

    @property
    def num_attention_heads(self) -> int:
        """Heads that the cache of keys and values has to have room for: those of all streams."""
        return self.streams * self.gpt.heads

    num_key_value_heads = num_attention_heads

    @property
    def head_dim(self) -> int:
        """E, which is not ``hidden_size / num_attention_heads`` where there are two streams."""
        return self.gpt.width // self.gpt.heads
