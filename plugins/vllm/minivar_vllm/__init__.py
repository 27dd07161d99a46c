"""minivar's next-token transformer for vLLM. Importing this needs no vLLM and no transformers, ``register`` does."""

ARCHITECTURE = "MinivarForCausalLM"
MODEL_TYPE = "minivar_gpt"


def register() -> None:
    """Tell vLLM of the model, and transformers of its configuration; vLLM calls it in each of its processes.

    The model is named and not imported: vLLM imports it when a process needs it, and not before a fork.
    """
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from minivar_vllm.config import MinivarConfig

    AutoConfig.register(MODEL_TYPE, MinivarConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "minivar_vllm.model:MinivarForCausalLM")
