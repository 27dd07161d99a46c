"""vLLM itself: registration, weights, logits and tokens. Skipped where vLLM cannot be imported or finds no device."""

from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from minivar_vllm import ARCHITECTURE, register
from minivar_vllm.export import export
from minivar_vllm.weights import placed

from minivar.sampling import sample_raster

vllm = pytest.importorskip("vllm", reason="vLLM is not installed here; plugins/vllm/README.md says how it was")
try:
    from vllm.platforms import current_platform

    DEVICE = current_platform.device_type
except Exception as error:  # whatever a build without its device raises
    pytest.skip(f"vLLM {vllm.__version__} cannot be imported here: {error}", allow_module_level=True)
if not DEVICE:
    pytest.skip(
        f"vLLM {vllm.__version__} finds no device here: its wheel wants a GPU with CUDA, and only a build for CPUs "
        "runs without",
        allow_module_level=True,
    )

LABELS = torch.tensor([3, 7, 1, 9, 4])


@pytest.fixture(scope="module", params=[1.0, 2.0], ids=lambda value: f"guidance {value}")
def served(request, shipped, tmp_path_factory):
    """An engine with room for three pictures at a time, and its guidance."""
    register()
    folder = export(shipped, tmp_path_factory.mktemp("folder"), request.param)
    own = {"skip_tokenizer_init": True, "dtype": "float32", "enforce_eager": True}
    engine = vllm.LLM(str(folder), max_num_seqs=3, max_logprobs=-1, logprobs_mode="raw_logits", **own)
    return engine, request.param


def draw(engine, prompts, counts, **settings):
    """Greedy, unless ``settings`` say otherwise: the engine's answers to ``prompts``, with ``counts`` tokens each."""
    own = {"temperature": 0, "ignore_eos": True, "detokenize": False, **settings}
    params = [vllm.SamplingParams(max_tokens=count, **own) for count in counts]
    return engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)


def test_vllm_knows_the_model(tmp_path, gpt):
    from transformers import AutoConfig

    register()
    register()  # vLLM may call it twice in a process
    assert ARCHITECTURE in vllm.ModelRegistry.get_supported_archs()
    config = AutoConfig.from_pretrained(export(gpt, tmp_path, guidance=3))
    assert (config.gpt, config.guidance, config.vocab_size) == (gpt.config, 3, 58)
    assert (config.num_attention_heads, config.head_dim, config.max_position_embeddings) == (4, 32, 16)
    config.update({"guidance": 1.0})  # what ``hf_overrides`` does
    assert config.num_attention_heads == 2


def test_the_entry_point_is_found():
    try:
        entries = distribution("minivar-vllm").entry_points
    except PackageNotFoundError:
        pytest.skip("minivar-vllm is not installed here: pip install --no-deps -e plugins/vllm")
    (entry,) = entries.select(group="vllm.general_plugins")
    assert entry.name == "minivar" and entry.load() is register


def test_weights_are_those_of_the_checkpoint(served, shipped):
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs

    # a model beside the engine's, whose weights may be in another order already, that of the processor's kernels
    settings = EngineArgs(model=served[0].model_config.model, skip_tokenizer_init=True, dtype="float32")
    config = settings.create_engine_config()
    with set_current_vllm_config(config):
        model, _ = vllm.ModelRegistry.resolve_model_cls([ARCHITECTURE], config.model_config)
        model = model(vllm_config=config)
    seen, found = model.load_weights(shipped.state_dict().items()), dict(model.named_parameters())
    assert seen == set(found)
    for name, half, tensor in placed(shipped.state_dict().items()):
        own = found[name] if half is None else found[name].chunk(2)[half]
        assert torch.equal(own[: len(tensor)], tensor), name  # tables are filled up to a multiple of 64 rows


def test_logits_of_every_position_are_minivars(served, shipped, guided_logits):
    engine, guidance = served
    tokens = torch.randint(512, (len(LABELS), 48), generator=torch.Generator().manual_seed(0))
    expected = guided_logits(shipped, LABELS, tokens, guidance)
    prompts = [[512 + label, *row] for label, row in zip(LABELS.tolist(), tokens.tolist())]
    for answer, want in zip(draw(engine, prompts, [1] * 5, logprobs=-1, prompt_logprobs=-1), expected):
        steps = [*answer.prompt_logprobs[1:], answer.outputs[0].logprobs[0]]
        got = torch.tensor([[step[token].logprob for token in range(512)] for step in steps])
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
        assert all(step[token].logprob == float("-inf") for step in steps for token in range(512, 523))


def test_pictures_that_join_a_batch_late_are_minivars(served, shipped):
    engine, guidance = served
    expected = sample_raster(shipped, None, LABELS, cfg=guidance, greedy=True).tokens
    counts = [49, 10, 31, 49, 49]  # so that others join when some are half drawn
    answers = draw(engine, [[512 + label] for label in LABELS.tolist()], counts)
    for answer, want, count in zip(answers, expected, counts):
        assert list(answer.outputs[0].token_ids) == want[:count].tolist()


def test_no_class_is_ever_drawn(served):
    answers = draw(served[0], [[512 + 10]] * 6, [49] * 6, temperature=2.0, seed=0)
    assert max(token for answer in answers for token in answer.outputs[0].token_ids) < 512
