"""The text encoder, and VAR and GPT that draw from its features: shapes, leakage, caches, guidance."""

import dataclasses

import pytest
import torch
from conftest import SCHEDULE, tokenizer_config, wake

from minivar import checkpoints, data, files, sampling
from minivar.data import Vocabulary
from minivar.files import CheckpointError
from minivar.models import (
    GPT,
    VAR,
    GPTConfig,
    TextConfig,
    TextEncoder,
    TextVAR,
    TextVARConfig,
    VARConfig,
    block_causal,
    build,
)
from minivar.tokenizer import VQVAE

VOCABULARY = Vocabulary(("apple", "green", "red"), buckets=32, length=5, pieces=6)
CPU = torch.device("cpu")


def text_encoder(seed: int = 0, **other) -> TextEncoder:
    """Features (B, 5, 8), of the styles noto and twemoji."""
    torch.manual_seed(seed)
    small = {"vocabulary": VOCABULARY, "styles": ("noto", "twemoji"), "width": 8, "depth": 1, "heads": 2}
    return TextEncoder(TextConfig(**{**small, "projection": 6, **other})).eval()


def text_var_config(**other) -> TextVARConfig:
    """Fits ``tokenizer_config`` and ``text_encoder``."""
    small = {"depth": 2, "width": 32, "heads": 2, "codebook_size": 16, "code_dim": 4, "schedule": SCHEDULE}
    return TextVARConfig(**{**small, "caption_tokens": 5, "caption_dim": 8, **other})


def text_gpt_config(**other) -> GPTConfig:
    small = {"depth": 2, "width": 32, "heads": 2, "grid": (4, 4), "codebook_size": 16, "num_classes": 0, "hidden": 64}
    return GPTConfig(**{**small, "caption_tokens": 5, "caption_dim": 8, "dropout": 0.05, **other})


READS = ("prefix", "cross")


def both(reads: str, seed: int = 0) -> tuple[TextVAR, VQVAE]:
    return wake(TextVAR(text_var_config(reads=reads)), seed), wake(VQVAE(tokenizer_config()))


# The encoder ------------------------------------------------------------------------------------------------------


def test_features_of_padding_are_zero_and_change_nothing():
    text = wake(text_encoder())
    features = text.read(["red apple", "apple"])
    assert features.shape == (2, 5, 8)
    assert features[0, :2].eq(0).all() and features[0, 2:].ne(0).any(-1).all()
    assert features[1, :3].eq(0).all()
    longer = TextEncoder(dataclasses.replace(text.config, vocabulary=dataclasses.replace(VOCABULARY, length=7)))
    state = dict(text.state_dict())
    positions = state["position_1TD"]
    state["position_1TD"] = torch.cat([torch.randn(1, 2, 8), positions], dim=1)
    longer.load_state_dict(state)
    torch.testing.assert_close(longer.eval().read(["red apple"])[:, 2:], features[:1])


def test_a_caption_is_one_vector_of_length_one_and_words_matter():
    text = wake(text_encoder())
    vectors = text.embed(VOCABULARY.ids(["red apple", "green apple", "red apples", "zebra"]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert len({tuple(v) for v in vectors.tolist()}) == 4


def test_the_encoder_refuses_what_it_cannot_read():
    text = text_encoder()
    for wrong, words in (
        ("apple, oil", "Unknown style 'oil'"),
        ("", "needs a word"),
        ("a b c d e", "may have 4 words"),
    ):
        with pytest.raises(data.DataError, match=words):
            text.read(["apple", wrong])
    with pytest.raises(ValueError, match=r"Expected pieces of words of shape \(B, 5, 6\); got \(2, 5\)"):
        text(torch.zeros(2, 5, dtype=torch.int64))


def test_an_encoder_comes_back_from_its_file(tmp_path):
    text = text_encoder()
    checkpoints.save(text, tmp_path / "text.safetensors")
    again, _ = checkpoints.load(tmp_path / "text.safetensors", "TextEncoder")
    assert again.config == text.config
    assert again.read(["red apple"]).equal(text.read(["red apple"]))


# VAR --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", READS)
def test_a_scale_learns_from_the_caption_and_earlier_scales_alone(reads):
    model, _ = both(reads)
    cond, inputs = torch.randn(2, 5, 8), torch.randn(2, 20, 4)
    logits = model(cond, inputs)
    assert logits.shape == (2, 21, 16)
    for begin, end in SCHEDULE.bounds[1:]:
        changed = inputs.clone()
        changed[:, begin - 1 :] += 1
        other = model(cond, changed)
        torch.testing.assert_close(other[:, :begin], logits[:, :begin])
        assert (other[:, begin:end] - logits[:, begin:end]).abs().max() > 1e-3
    for word in range(5):  # every word reaches every scale
        changed = cond.clone()
        changed[:, word] += 1
        moved = (model(changed, inputs) - logits).abs()
        assert all(moved[:, begin:end].max() > 1e-4 for begin, end in SCHEDULE.bounds)


@pytest.mark.parametrize("reads", READS)
def test_all_ways_to_mask_a_prefix_agree(reads):
    model, _ = both(reads)
    prefix = model.config.prefix
    dense = SCHEDULE.block_causal_mask(CPU, prefix)
    assert dense.shape == (21 + prefix, 21 + prefix)
    assert dense[:prefix, : prefix + 1].all() and not dense[: prefix + 1, prefix + 1 :].any()
    assert dense[prefix:, prefix:].equal(SCHEDULE.block_causal_mask(CPU))
    q, k, v = torch.randn(3, 2, 2, 21 + prefix, 8).unbind()
    expected = block_causal.attend(q, k, v, dense, 0.3)
    found = block_causal.attend(q, k, v, block_causal.prefixes(SCHEDULE, CPU, prefix), 0.3)
    torch.testing.assert_close(found, expected)
    record = []
    cond, inputs = torch.randn(1, 5, 8), torch.randn(1, 20, 4)
    torch.testing.assert_close(model(cond, inputs, record), model(cond, inputs))
    assert record[0].shape == (1, 2, 21 + prefix, 21 + prefix)


@pytest.mark.parametrize("reads", READS)
def test_drawing_with_and_without_a_cache_and_teacher_forced(reads):
    model, tokenizer = both(reads)
    features = wake(text_encoder()).read(["red apple", "apple, noto", "green"])
    settings = {"cfg": 2.0, "top_k": 8}
    drawn = [
        sampling.sample(
            model, tokenizer, features, generator=torch.Generator().manual_seed(1), use_cache=c, **settings
        )
        for c in (True, False)
    ]
    assert drawn[0].tokens.equal(drawn[1].tokens)
    greedy = sampling.sample(model, tokenizer, features, cfg=0.0, top_k=1).tokens
    logits = model(features, tokenizer.teacher_inputs(SCHEDULE.split(greedy)))
    assert logits.argmax(-1).equal(greedy)
    economical = sampling.sample_economically(
        model, tokenizer, features, generator=torch.Generator().manual_seed(1), **settings
    )
    assert economical.tokens.equal(drawn[0].tokens)
    packed = sampling.packed(model)
    torch.testing.assert_close(packed(features, torch.zeros(3, 20, 4)), model(features, torch.zeros(3, 20, 4)))


@pytest.mark.parametrize("reads", READS)
def test_economies_know_the_prefix(reads):
    model, tokenizer = both(reads)
    features = wake(text_encoder()).read(["red apple", "apple"])
    for economy in ({"kept_tokens": 0.5}, {"sub_steps": 2}, {"guided_scales": 1}):
        drawn = sampling.sample_economically(model, tokenizer, features, sampling.Economy(**economy))
        assert drawn.tokens.shape == (2, 21)
    alone = sampling.sample_economically(model, tokenizer, features, cfg=1.0, top_k=1)
    economy = sampling.Economy(refined_from=1)
    handed = sampling.sample_economically(model, tokenizer, features, economy, refiner=model, cfg=1.0, top_k=1)
    assert handed.tokens.equal(alone.tokens)


@pytest.mark.parametrize("reads", READS)
def test_guidance_leaves_the_null_caption(reads):
    model, tokenizer = both(reads)
    features = text_encoder().read(["red apple"])
    null = model.null_condition(features)
    inputs = torch.randn(1, 20, 4)
    dropped = TextVAR(dataclasses.replace(model.config, label_dropout=1.0, drop_path=0.0))
    dropped.load_state_dict(model.state_dict())
    torch.testing.assert_close(dropped.train()(features, inputs), model(null, inputs))
    torch.testing.assert_close(dropped.eval()(features, inputs), model(features, inputs))


def test_cross_attention_begins_as_nothing_and_a_model_learns_through_it():
    torch.manual_seed(0)
    model = TextVAR(text_var_config(reads="cross", dropout=0.1, label_dropout=0.5)).train()
    assert all(block.cross.proj.weight.eq(0).all() for block in model.blocks)
    logits = model(torch.randn(4, 5, 8), torch.randn(4, 20, 4))
    logits.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


def test_the_last_word_leads_adaln_and_the_first_scale():
    """Without a prefix and with cross-attention as nothing, it is all of the caption that is read."""
    model, _ = both("cross")
    for block in model.blocks:
        block.cross.proj.weight.data.zero_()
        block.cross.proj.bias.data.zero_()
    model.eval()
    features, inputs = torch.randn(2, 5, 8), torch.randn(2, SCHEDULE.num_tokens - 1, 4)
    with torch.no_grad():
        logits = model(features, inputs)
        for word in range(5):
            changed = features.clone()
            changed[:, word] += 1.0
            assert torch.equal(model(changed, inputs), logits) == (word < 4), word
        changed = features.clone()
        changed[:, -1] += 1.0
        first = SCHEDULE.counts[0]
        assert not torch.allclose(model.start(model.condition(changed)[1]), model.start(model.condition(features)[1]))
        assert not torch.allclose(model(changed, inputs)[:, :first], logits[:, :first])


def test_what_does_not_fit_is_refused():
    model, tokenizer = both("prefix")
    for cond in (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 5, 7), torch.zeros(0, 5, 8)):
        with pytest.raises(ValueError, match=r"Expected caption features of shape \(B, 5, 8\), B > 0; got torch."):
            sampling.sample(model, tokenizer, cond)
    for wrong in ({"conditioning": "prefix"}, {"shared_adaln": True}):
        with pytest.raises(ValueError, match="A VAR of captions has an AdaLN in every block"):
            text_var_config(**wrong)
    with pytest.raises(ValueError, match="reads must be 'prefix' or 'cross'; got 'hymn'"):
        text_var_config(reads="hymn")


def test_a_class_conditional_var_is_as_it_was():
    """The configuration, its numbers and the order in which they are drawn: what checkpoints and runs rest on."""
    config = VARConfig(depth=1, width=16, heads=2, num_classes=3, codebook_size=8, code_dim=4, schedule=SCHEDULE)
    fields = {field.name for field in dataclasses.fields(VARConfig)}
    assert not fields & {"caption_tokens", "caption_dim", "reads", "dropout"}
    torch.manual_seed(0)
    names = [name for name, _ in VAR(config).named_parameters()]
    assert names[:3] == ["start_1lD", "position_1LD", "word_embed.weight"]
    assert names[3:6] == ["word_embed.bias", "class_embed.weight", "level_embed.weight"]
    assert type(build(config)) is VAR and type(build(text_var_config())) is TextVAR


# GPT --------------------------------------------------------------------------------------------------------------


def test_nobody_sees_the_padding_of_a_caption():
    gpt = wake(GPT(text_gpt_config()))
    features, tokens = wake(text_encoder()).read(["apple"]), torch.randint(16, (1, 15))
    shorter = GPT(dataclasses.replace(gpt.config, caption_tokens=2))
    shorter.load_state_dict({**gpt.state_dict(), "null_caption": gpt.null_caption[3:].clone()})
    torch.testing.assert_close(gpt(features, tokens), shorter.eval()(features[:, 3:], tokens))
    mask = gpt.visible(features, 8)[0, 0]
    assert mask.diagonal().all() and not mask[4:, :3].any() and mask[4:, 3].all()
    assert not mask.triu(1).any()


def test_drawing_by_a_gpt_with_padded_captions_with_and_without_a_cache():
    gpt = wake(GPT(text_gpt_config()))
    features = wake(text_encoder()).read(["red apple", "apple", "green red apple"])
    drawn = [
        sampling.sample_raster(
            gpt, None, features, cfg=2.0, generator=torch.Generator().manual_seed(2), use_cache=use_cache
        ).tokens
        for use_cache in (True, False)
    ]
    assert drawn[0].equal(drawn[1])
    greedy = sampling.sample_raster(gpt, None, features, greedy=True).tokens
    assert gpt(features, greedy[:, :-1]).argmax(-1).equal(greedy)


# Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", READS)
def test_a_model_of_captions_comes_back_with_its_encoder_or_says_what_is_wrong(tmp_path, reads):
    model, tokenizer = both(reads)
    text = text_encoder()
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    checkpoints.save(model, tmp_path / "textvar.safetensors", text=files.weights_fingerprint(text))
    again, loaded, header = checkpoints.load_pair(tmp_path)
    assert type(loaded) is TextVAR and loaded.config == model.config
    with pytest.raises(CheckpointError, match="has no text.safetensors: expected the text encoder beside"):
        checkpoints.load_text(tmp_path, loaded, header)
    checkpoints.save(text, tmp_path / "text.safetensors")
    features = checkpoints.load_text(tmp_path, loaded, header).read(["red apple"])
    zeros = torch.zeros(1, 20, 4)
    torch.testing.assert_close(loaded(features, zeros), model(features, zeros))
    checkpoints.save(text_encoder(seed=1), tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match="do not belong together: the fingerprint of the encoder is"):
        checkpoints.load_text(tmp_path, loaded, header)
    checkpoints.save(text_encoder(width=16), tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match=r"\(T, caption_dim\) is \(5, 16\) in the encoder, and the .* \(5, 8\)"):
        checkpoints.load_text(tmp_path, loaded, header)
