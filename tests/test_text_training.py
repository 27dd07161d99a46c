"""Models of captions from training to the command line, and the judge of what they draw."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from conftest import NETS, tokenizer_config
from test_captions import drawings
from test_cli import refused
from test_text import text_encoder, text_gpt_config, text_var_config

from minivar import checkpoints, cli, data, evaluation, files, presets, training
from minivar.checkpoints.flan_t5 import caption_features, left_padded
from minivar.evaluation.captions import CaptionJudge, also_true, caption_loss
from minivar.files import CheckpointError
from minivar.models import GPTConfig, TextVARConfig
from minivar.sampling import RasterSamplingConfig, SamplingConfig
from minivar.tokenizer import TokenCache, write_cache
from minivar.training import Preset, TrainConfig

RECIPE = TrainConfig(
    epochs=4, batch_size=6, base_lr=0.05, warmup=0.0, log_every=2, checkpoint_every=4, keep_best=True
)
COLOURED = {"nets": dataclasses.replace(NETS, image_channels=3)}


def wide_text(seed: int = 0):
    """An encoder for captions as long as those of the emoji world."""
    vocabulary = data.Vocabulary(("red", "blue", "noto"), buckets=32, length=12, pieces=6)
    return text_encoder(seed, vocabulary=vocabulary, styles=("noto", "twemoji", "noto-v1"))


def preset_of(kind: str, **other) -> Preset:
    quantiser = {"quantizer": "single", "schedule": None} if kind == "gpt" else {}
    recipe = dataclasses.replace(RECIPE, **other)
    model = text_gpt_config(caption_tokens=12) if kind == "gpt" else text_var_config(reads=kind, caption_tokens=12)
    sampling = RasterSamplingConfig() if kind == "gpt" else SamplingConfig()
    return Preset("tiny", "emoji-32", 1, tokenizer_config(**COLOURED, **quantiser), recipe, model, recipe, sampling)


def train(kind: str, out, text, **other):
    preset, images = preset_of(kind, **other), data.captioned(drawings())
    tokenizer = training.train_tokenizer(preset, images, out, progress=False, validation=images)
    options = {"progress": False, "validation": images, "text": text}
    return tokenizer, training.train_model(preset, tokenizer, images, out, **options)


@pytest.fixture(scope="module", params=["prefix", "cross", "gpt"])
def run(request, tmp_path_factory):
    """A finished run: (folder, file of the model, tokenizer, model)."""
    out = tmp_path_factory.mktemp(request.param)
    tokenizer, model = train(request.param, out, wide_text())
    return out, "gpt" if request.param == "gpt" else "textvar", tokenizer, model


def test_a_run_learns_and_leaves_its_encoder_beside_the_model(run):
    out, name, _, model = run
    log = [entry for entry in training.read_log(out / "metrics.jsonl") if entry["phase"] == name]
    losses = [entry["loss"] for entry in log]
    assert len(losses) == 4 and np.isfinite(losses).all() and losses[-1] < losses[0]
    assert all("validation_loss" in entry for entry in log if entry["step"] % 4 == 0)
    assert (out / f"{name}.best.safetensors").is_file() and (out / f"{name}.png").is_file()
    _, again, header = checkpoints.load_pair(out)
    assert header["text"] == files.weights_fingerprint(wide_text())
    assert type(again) is type(model)
    checkpoints.load_text(out, again, header)


def test_a_killed_run_of_captions_goes_on_bit_for_bit(tmp_path, monkeypatch, run):
    out, name, _, model = run
    kind = next(kind for kind in ("prefix", "cross", "gpt") if kind in out.name)

    def stop(self, done):
        if done == 4 and self.task.name == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minivar.training.loop.Run.stop_if_asked", stop)
        with pytest.raises(KeyboardInterrupt):
            train(kind, tmp_path, wide_text())
    _, again = train(kind, tmp_path, wide_text())
    for key, value in model.state_dict().items():
        assert value.equal(again.state_dict()[key]), key
    with pytest.raises(ValueError, match="another text encoder than this run: choose another --out"):
        train(kind, tmp_path, wide_text(seed=1))


def test_texts_on_the_command_line_draw_images(run, tmp_path, capsys):
    out, *_ = run
    words = ["sample", "--checkpoint", str(out), "--count", "3", "--out", str(tmp_path / "grid.png")]
    npz = ["--npz", str(tmp_path / "drawn.npz")]
    assert cli.main([*words, *npz, "--text", "red apple, noto", "--text", "blue"]) == 0
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert drawn["images"].shape == (3, 3, 16, 16) and drawn["labels"].tolist() == [0, 1, 0]
    capsys.readouterr()
    for wrong, sentence in (
        ([], "draws from captions: expected minivar sample with --text"),
        (["--text", ""], "A text needs a word in Latin letters or a number; got ''"),
        (["--text", "one " * 12], "A text may have 11 words; got 12"),
        (["--text", "apple, oil"], "Unknown style 'oil': expected, behind the comma, one of noto, twemoji, noto-v1"),
        (["--text", "apple", "--classes", "3"], "--text and --classes each say what to draw"),
        (["--text", "apple", "--text-encoder", "x"], "has its own text encoder: expected no --text-encoder"),
        (["--text-encoder", "x"], "--text-encoder is for --text; got x without it"),
        (["--text", "apple", "--evaluator", "x.npz"], "--evaluator draws all classes into one file; got"),
    ):
        assert sentence in refused(capsys, *words, *wrong)
    for command in (["evaluate"], ["edit", "--image", "x.png", "--box", "0,0,4,4"]):
        assert "draws from captions" in refused(capsys, *command, "--checkpoint", str(out))
    with pytest.raises(CheckpointError, match="draws from captions, whose encoder no release holds"):
        checkpoints.write_release(out, tmp_path / "release", "mit")


def test_texts_are_for_models_of_captions(capsys):
    assert "draws classes: expected --classes, or a model of captions; got --text" in refused(
        capsys, "sample", "--text", "seven"
    )


def test_a_model_of_captions_is_described(run, capsys):
    assert cli.main(["info", "--checkpoint", str(run[0])]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["prefix", "gpt"])
def test_what_does_not_go_together_is_refused_before_training(tmp_path, kind):
    preset, ranks = preset_of(kind), training.loop.Ranks()
    images, text = data.captioned(drawings()), wide_text()
    check = training.check_run
    check(preset, images, "all", ranks, images, text)
    with pytest.raises(ValueError, match="tiny draws from captions: expected a text encoder; got none"):
        check(preset, images, "all", ranks)
    with pytest.raises(ValueError, match=r"learns from images with captions \(data.captioned\); got a ArraySet with"):
        check(preset, drawings(), "all", ranks, None, text)
    with pytest.raises(CheckpointError, match="Text encoder and transformer do not belong together"):
        check(preset, images, "all", ranks, None, text_encoder())
    tokenizer = training.train_tokenizer(preset, images, tmp_path, progress=False, validation=images)
    write_cache(tokenizer, images, tmp_path / "tokens", progress=False)
    with pytest.raises(ValueError, match="got a token cache without"):
        check(preset, TokenCache(tmp_path / "tokens"), "all", ranks, None, text)
    classes = presets.get("duel-emoji-var")
    with pytest.raises(CheckpointError, match="in the encoder, and the transformer expects classes"):
        check(classes, images, "all", ranks, None, text)


def test_presets_of_captions_have_as_many_parameters_and_the_longest_caption_fits():
    names = ("text-emoji-var", "text-emoji-var-cross", "text-emoji-gpt", "colour-var")
    counts = []
    for name in names:
        preset = presets.get(name)
        checkpoints.check_pair(preset.tokenizer, preset.model)
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in training.stages.build(preset.model).parameters()))
        if name != "colour-var":
            assert (preset.model.caption_tokens, preset.model.caption_dim) == (data.Vocabulary(()).length, 64)
    assert max(counts) < 1.01 * min(counts)
    assert isinstance(presets.get("text-emoji-var-cross", {"model.depth": 2}).model, TextVARConfig)
    assert isinstance(presets.get("text-emoji-gpt", ["model.dropout=0.2"]).model, GPTConfig)
    with pytest.raises(ValueError, match="mirror is for emoji-32 and emoji-64"):
        presets.get("digits", {"mirror": True})


def test_training_and_held_out_images_of_a_preset_have_captions(monkeypatch):
    monkeypatch.setattr("minivar.data.load", lambda *args, **options: drawings())
    monkeypatch.setattr("minivar.data.mirrored_where_it_suits", data.mirrored)
    preset = presets.get("text-emoji-var", {"views": 2, "jitter": (10.0, 0.1), "mirror": True})
    images = presets.training_set(preset, stage="model")
    assert len(images) == 48 and len(images.captions(torch.arange(48), 1)) == 48
    assert len(presets.validation_set(preset, stage="model").full_captions(torch.arange(3))) == 3
    assert not hasattr(presets.training_set(preset), "captions")  # a tokenizer needs none
    classes = presets.training_set(presets.get("colour-var", {"views": 1}), stage="model")
    assert len(classes.class_names) == 2 * 3 and not hasattr(classes, "captions")


# The judge --------------------------------------------------------------------------------------------------------


def test_the_loss_finds_pairs_and_does_not_mind_what_is_also_true():
    pairs, scale = torch.eye(4), torch.tensor(4.0)
    assert caption_loss(pairs, pairs, scale) < 1e-10 + 1e-5
    assert caption_loss(pairs, pairs.roll(1, 0), scale) > 10
    same = torch.ones(4, 4) / 2
    assert caption_loss(same, same, scale) == pytest.approx(np.log(4), abs=1e-5)
    assert caption_loss(same, same, scale, torch.ones(4, 4, dtype=torch.bool)) == pytest.approx(0, abs=1e-6)


def test_which_captions_are_also_true_of_another_drawing():
    images, index = data.captioned(drawings()), torch.arange(12)
    for epoch in range(5):
        found, said = also_true(images, index, epoch), images.said(index, epoch)
        assert found.diagonal().all()
        for row in range(12):
            for column in range(12):
                name, keywords, colour, style = said[column].tolist()
                agrees = [
                    images.extra[key].values[row] == images.extra[key].values[column]
                    for key, asked in (("name", name or keywords), ("colour", colour), ("style", style))
                    if asked
                ]
                assert bool(found[row, column]) == all(agrees)


def judge_that_knows(asked: data.Captioned) -> CaptionJudge:
    """It embeds each drawing as its own name and style."""
    text = wide_text()
    styles, names = asked.extra["style"], asked.extra["name"]
    judge = CaptionJudge(types.SimpleNamespace(), text)
    called = [f"{names.names[n]}, {styles.names[s]}" for n, s in zip(names.values, styles.values)]
    vectors = judge.of_texts([evaluation.captions.compose("", " ".join(data.words.words_of(t)), "") for t in called])
    object.__setattr__(judge, "of_images", lambda images: vectors)
    return judge


def test_retrieval_of_what_was_asked_for_and_of_anything_else():
    asked = data.captioned(drawings())
    images = asked.images.float() / 255
    found = evaluation.retrieval_of_captions(judge_that_knows(asked), images, asked)
    assert found["thing"]["accuracy"] == found["top5"]["accuracy"] == found["group"]["accuracy"] == 1
    assert found["colour"]["accuracy"] == 1 and found["style"]["accuracy"] == 1
    assert found["thing"]["chance"] == pytest.approx(1 / 6) and found["style"]["chance"] == pytest.approx(1 / 3)
    assert found["group"]["chance"] == pytest.approx(1 / 2) and found["colour"]["chance"] == pytest.approx(1 / 12)
    wrong = evaluation.retrieval_of_captions(judge_that_knows(asked), images.roll(1, 0), asked)
    assert wrong["colour"]["accuracy"] == 0


def test_towers_that_do_not_belong_together_are_refused(tmp_path):
    build = pytest.importorskip("experiments.build_text")
    judge = CaptionJudge(evaluation.ContrastJudge(build.TOWER), text_encoder(projection=64))
    build.save(judge, tmp_path)
    again = evaluation.load_caption_judge(tmp_path)
    assert again.text.config == judge.text.config
    checkpoints.save(text_encoder(1, projection=64), tmp_path / evaluation.captions.TEXT)
    with pytest.raises(CheckpointError, match="do not belong together: the judge learned beside an encoder with"):
        evaluation.load_caption_judge(tmp_path)


# FLAN-T5 ----------------------------------------------------------------------------------------------------------


def test_features_move_to_the_right_end_and_the_rest_is_zero():
    features, here = torch.arange(24.0).view(2, 4, 3) + 1, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    moved = left_padded(features, here)
    assert moved[0, :2].eq(0).all() and moved[0, 2:].equal(features[0, :2]) and moved[1].equal(features[1])


def test_without_the_package_or_the_model_there_is_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(CheckpointError, match=r"A caption needs words; got \['', 'x'\]"):
        caption_features(["", "x"])
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(
        CheckpointError, match="take transformers, which is not installed: expected pip install trans"
    ):
        caption_features(["a cat"], str(tmp_path))


class Words:
    """In place of a tokenizer: one token a word."""

    def __call__(self, texts, max_length=None, **options):
        ids = [[len(word) for word in text.split()] + [1] for text in texts]
        if max_length is None:
            return {"input_ids": ids}
        padded = torch.tensor([row + [0] * (max_length - len(row)) for row in ids])
        found = {"input_ids": padded, "attention_mask": (padded != 0).long()}
        return type("Batch", (dict,), {"to": lambda self, device: self})(found)


class Encoder(torch.nn.Module):
    config = types.SimpleNamespace(d_model=3)

    def forward(self, input_ids, attention_mask):
        return types.SimpleNamespace(last_hidden_state=input_ids[..., None].half().expand(-1, -1, 3) + 1)


def test_captions_become_features_padded_on_the_left_or_are_refused(monkeypatch):
    monkeypatch.setattr("minivar.checkpoints.flan_t5._load", lambda *_: (Words(), Encoder()))
    found = caption_features(["A  Cat"], tokens=5)
    assert found.dtype == torch.float32 and found[0, :, 0].tolist() == [0, 0, 2, 4, 2]
    with pytest.raises(CheckpointError, match="A caption may have 3 tokens; got 4, 'a b c'"):
        caption_features(["a b c"], tokens=3)
    with pytest.raises(CheckpointError, match="makes features of 3 numbers, and the transformer expects 2048"):
        caption_features(["a"], dim=2048)


def test_features_are_those_of_llamagens_script(tmp_path):
    """With the package itself, and a model that has learned nothing."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", "a", "red", "cat", "dog"))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    end = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.post_processor = end
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    fast.save_pretrained(tmp_path)
    config = transformers.T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path)
    found = caption_features(["A red  cat", "a dog"], str(tmp_path), tokens=8, offline=True)
    encoder = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    ids = fast(["a red cat", "a dog"], max_length=8, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        out = encoder(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])["last_hidden_state"]
    rows = [torch.cat([x[int(m.sum()) :], x[: int(m.sum())]]) for x, m in zip(out, ids["attention_mask"])]
    torch.testing.assert_close(found, torch.stack(rows) * ids["attention_mask"].flip(-1)[..., None])
