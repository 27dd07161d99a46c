"""Published checkpoints by name: the table, files in a folder or from a Hub, and ``minivar sample --published``."""

import dataclasses
import json
import math
import re
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import tokenizer_config, var_config, wake
from published_files import CODES, GPT_ROW, NETS, ROWS, VAR_ROW, Hub, draw, gpt_pair, var_pair, write

import minivar
from minivar import checkpoints, cli, files, sampling
from minivar.analysis import drawing
from minivar.checkpoints import CheckpointError, open_folder, open_published
from minivar.models import VAR
from minivar.tokenizer import VQVAE, TokenizerConfig

OFFICIAL = {
    file: {key: shape for key, (shape, _) in entries.items()}
    for name in ("var", "llamagen")
    for file, entries in json.loads(
        (Path(__file__).parent / "data" / f"official_checkpoint_keys_{name}.json").read_text()
    ).items()
}
CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias", "ema_vocab_hit_SV", "codebook_used")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A folder with the files of each row."""
    root = tmp_path_factory.mktemp("published")
    pairs = {"tiny-var": var_pair(), "tiny-gpt": gpt_pair()}
    return {row.name: write(root / row.name, row, *pairs[row.name]) for row in ROWS}


@pytest.fixture
def table(monkeypatch):
    """The small rows are in the table."""
    for row in ROWS:
        monkeypatch.setitem(checkpoints.MODELS, row.name, row)


@pytest.fixture
def hub(monkeypatch, folders, tmp_path) -> Hub:
    hub = Hub(tmp_path / "cache")
    hub.repositories = {row.repository: folders[row.name] for row in ROWS}
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.download)
    return hub


def refused(capsys, *argv: object) -> str:
    """What a command that fails prints: one line on standard error."""
    assert cli.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minivar: ") and captured.err.count("\n") == 1
    return captured.err


# The table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_the_table_agrees_with_the_published_lists_of_entries(name):
    row = checkpoints.MODELS[name]
    assert row.name == name
    for file, numbers in zip(row.files, row.numbers):
        like = {"vq_ds16_t2i.pt": "vq_ds16_c2i.pt", "t2i_XL_stage2_512.pt": "t2i_XL_stage1_256.pt"}.get(file, file)
        learned = {key: shape for key, shape in OFFICIAL[like].items() if key.split(".")[-1] not in CONSTANTS}
        assert sum(map(math.prod, learned.values())) == numbers
    width = learned["word_embed.bias" if row.schedule else "norm.weight"][0]
    blocks = {m[1] for key in learned if (m := re.match(r"(?:blocks|layers)\.(\d+)\.", key))}
    assert (len(blocks), width) == row.shape
    assert ("cls_embedding.uncond_embedding" in learned) == row.text
    if row.schedule:
        assert learned["pos_1LC"][1] == row.schedule.num_tokens and row.grid == row.schedule.final_grid


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_the_shapes_of_the_table_have_the_published_numbers_of_parameters(name):
    row = checkpoints.MODELS[name]
    tokenizer, model = drawing.shapes(row)
    assert tuple(sum(p.numel() for p in module.parameters()) for module in (tokenizer, model)) == row.numbers
    assert (model.config.depth, model.config.width) == row.shape
    assert model.config.grids[-1] == row.grid


def test_an_unknown_name_lists_those_that_are_known(capsys, tmp_path):
    message = refused(capsys, "sample", "--published", "var-d17", "--out", tmp_path / "grid.png")
    assert "Unknown published model 'var-d17': expected one of var-d16, var-d20" in message
    assert "llamagen-3b-384" in message
    assert list(tmp_path.iterdir()) == []


# From a folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_folder_gives_what_was_written_and_asks_no_network(row, folders, hub):
    tokenizer, model, header = open_published(row, folders[row.name])
    before_tokenizer, before = var_pair() if row is VAR_ROW else gpt_pair()
    for loaded, written in ((tokenizer, before_tokenizer), (model, before)):
        assert not loaded.training
        for (key, value), (_, expected) in zip(loaded.named_parameters(), written.named_parameters(), strict=True):
            assert torch.equal(value, expected), key
    assert model.config.grids[-1] == (4, 4)
    assert header["sampling"] == dataclasses.asdict(row.sampling)
    assert draw(tokenizer, model, header).shape == (2, 3, 64, 64)
    assert hub.asked == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_weights_in_16_bits_are_computed_with_in_32(row, folders, tmp_path):
    for file in row.files:
        state = files.read_state_dict(folders[row.name] / file, "model")
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        torch.save(half, tmp_path / file)
    for module in open_published(row, tmp_path)[:2]:
        assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_a_missing_file_or_folder_is_named_with_both_and_where_they_are(folders, tmp_path):
    both = (
        r"tiny-var is vae_ch160v4096z32\.pth and var_d16\.pth, expected both, from https://huggingface\.co/someone/"
    )
    with pytest.raises(CheckpointError, match=f"There is no folder .*nowhere: {both}"):
        open_published(VAR_ROW, tmp_path / "nowhere")
    (tmp_path / VAR_ROW.files[0]).write_bytes((folders["tiny-var"] / VAR_ROW.files[0]).read_bytes())
    with pytest.raises(CheckpointError, match=rf"has no var_d16\.pth: {both}"):
        open_published(VAR_ROW, tmp_path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("which", [0, 1])
def test_a_file_that_was_cut_off_is_one_sentence(row, folders, tmp_path, share, which):
    for file in row.files:
        (tmp_path / file).write_bytes((folders[row.name] / file).read_bytes())
    cut = tmp_path / row.files[which]
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(CheckpointError, match=r"is not whole: got [\d,]+ bytes, expected about 4,000; the") as caught:
        open_published(row, tmp_path)
    assert str(cut) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("which", [0, 1])
def test_a_flipped_bit_that_pytorch_does_not_see_is_one_sentence(row, folders, tmp_path, which):
    for file in row.files:
        (tmp_path / file).write_bytes((folders[row.name] / file).read_bytes())
    path = tmp_path / row.files[which]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    files.read_state_dict(path, "model")  # nothing is said
    with pytest.raises(CheckpointError, match=r"is damaged: .+/data/\d+ in it has another content") as caught:
        open_published(row, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_far_too_small_for_the_published_shapes_is_not_read(folders):
    row = checkpoints.MODELS["var-d16"]
    with pytest.raises(
        CheckpointError, match=r"is not whole: got [\d,]+ bytes, expected about 435,793,420; the down"
    ):
        open_published("var-d16", folders["tiny-var"])
    assert 4 * row.numbers[0] == 435_793_420


def test_a_file_of_something_else_is_refused(folders, tmp_path):
    write(tmp_path, VAR_ROW, *var_pair())
    (tmp_path / VAR_ROW.files[1]).write_bytes(b"<html>" * 1000)
    with pytest.raises(CheckpointError, match=r"var_d16\.pth is not a readable PyTorch checkpoint"):
        open_published(VAR_ROW, tmp_path)


@pytest.mark.parametrize("other", [{"codebook_size": 17}, {"code_dim": 5}], ids=["codebook", "code"])
def test_a_tokenizer_and_a_transformer_of_different_codes_do_not_belong_together(tmp_path, other):
    write(tmp_path, VAR_ROW, *var_pair())
    _, stranger = var_pair(**other)
    torch.save(checkpoints.to_var(VQVAE(tokenizer_config()), stranger)[1], tmp_path / VAR_ROW.files[1])
    expected = tuple({**CODES, **other}.values())
    sentence = rf"do not belong together: \(V, C\) is \(16, 4\) in .*expects {re.escape(str(expected))}\."
    with pytest.raises(CheckpointError, match=sentence):
        open_published(VAR_ROW, tmp_path)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"codebook_size": 17}, r"do not belong together: \(quantizer, grid, V\) is \('single', \(4, 4\), 16\)"),
        ({"nets": dataclasses.replace(NETS, multipliers=(1, 1, 1, 1))}, "a token is 8 pixels wide in the tokenizer"),
    ],
    ids=["codebook", "stride"],
)
def test_the_same_of_llamagen(tmp_path, other, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        open_published(GPT_ROW, write(tmp_path, GPT_ROW, *gpt_pair(**other)))


def test_a_file_under_another_ones_name_is_refused(tmp_path):
    deeper = write(tmp_path / "deeper", VAR_ROW, *var_pair(depth=3))
    with pytest.raises(CheckpointError, match=r"is not the transformer of tiny-var: .* \(2, 32\), got \(3, 32\)\."):
        open_published(VAR_ROW, deeper)
    row = dataclasses.replace(VAR_ROW, schedule=minivar.scales.VAR_256)
    with pytest.raises(CheckpointError, match="is not the transformer of tiny-var: expected 680 tokens, got 21"):
        open_published(row, deeper)
    texts = write(tmp_path / "texts", GPT_ROW, *gpt_pair(num_classes=0, caption_tokens=3, caption_dim=8))
    with pytest.raises(CheckpointError, match="tiny-gpt: it draws from captions, expected classes"):
        open_published(GPT_ROW, texts)
    _, model, header = open_published(dataclasses.replace(GPT_ROW, text=True), texts)
    assert (model.config.caption_tokens, header["classes"]) == (3, None)


def test_any_pair_in_a_folder_is_opened_whatever_its_size(tmp_path, folders):
    tokenizer, model, header = open_folder(folders["tiny-gpt"])
    assert model.config.grid == (24, 24)  # as the name of its file says
    assert header["classes"] == "imagenet"
    assert header["sampling"] == dataclasses.asdict(checkpoints.MODELS["llamagen-b-384"].sampling)
    checkpoints.save(var_pair()[0], tmp_path / "tokenizer.safetensors")
    checkpoints.save(var_pair()[1], tmp_path / "var.safetensors", sampling={"cfg": 3.0})
    assert open_folder(tmp_path)[2]["sampling"] == {"cfg": 3.0}


# From the Hub -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_hub_gives_the_same_as_the_folder_and_again_without_a_network(row, folders, hub):
    expected = draw(*open_published(row, folders[row.name]))
    assert torch.equal(draw(*open_published(row)), expected)
    assert hub.asked == list(row.files)
    hub.reachable = False
    assert torch.equal(draw(*open_published(row, offline=True)), expected)
    assert torch.equal(draw(*open_published(row)), expected)


@pytest.mark.parametrize("offline", [True, None], ids=["offline", "no network"])
def test_what_is_not_in_the_cache_has_to_be_fetched_by_hand_without_a_network(hub, offline):
    hub.reachable = False
    with pytest.raises(CheckpointError) as caught:
        open_published(VAR_ROW, offline=offline)
    assert str(caught.value) == (
        "vae_ch160v4096z32.pth of someone/tiny-var is not in the cache, and the Hub cannot be reached or must not be "
        "asked: expected a network; or fetch vae_ch160v4096z32.pth and var_d16.pth from "
        "https://huggingface.co/someone/tiny-var and name their folder (--from DIR)."
    )


def test_what_the_hub_refuses_is_one_sentence(hub):
    row = dataclasses.replace(VAR_ROW, files=("vae_ch160v4096z32.pth", "var_d99.pth"))
    with pytest.raises(CheckpointError, match=r"Could not download var_d99\.pth of someone/tiny-var \(404 Client E"):
        open_published(row)


def test_a_download_that_was_cut_off_is_found_in_the_cache_too(hub, tmp_path):
    open_published(VAR_ROW)
    path = hub.cache / VAR_ROW.repository / VAR_ROW.files[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"var_d16\.pth is not whole"):
        open_published(VAR_ROW)


def test_the_real_library_finds_files_in_its_cache_and_says_when_they_are_not(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="is not in the cache, and the Hub cannot be reached or must not"):
        open_published(VAR_ROW, offline=True)
    repository, commit = tmp_path / "models--someone--tiny-var", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    write(repository / "snapshots" / commit, VAR_ROW, *var_pair())
    expected = draw(*open_published(VAR_ROW, folders["tiny-var"]))
    assert torch.equal(draw(*open_published(VAR_ROW, offline=True)), expected)


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch, folders, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"expected pip install 'minivar\[hub\]'; or fetch vae_ch160v4096z32"):
        open_published("var-d16")
    assert open_published(VAR_ROW, folders["tiny-var"])[2]["published"] == "tiny-var"
    with pytest.raises(CheckpointError, match=r"To write a model card takes .* pip install 'minivar\[hub\]'\."):
        checkpoints.write_release(cli.shared.SHIPPED, tmp_path / "out", "mit")
    assert list(tmp_path.iterdir()) == []


# minivar sample ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_sample_draws_what_the_package_draws_and_knows_the_names_of_classes(row, folders, table, tmp_path, capsys):
    where = ["--out", str(tmp_path / "grid.png"), "--npz", str(tmp_path / "samples.npz")]
    more = ["--classes", "Golden retriever, 3", "--count", "2", "--seed", "5", *where]
    assert cli.main(["sample", "--published", row.name, "--from", str(folders[row.name]), *more]) == 0
    assert "2 images in" in capsys.readouterr().out
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["labels"].tolist() == [207, 3]
        drawn = torch.from_numpy(arrays["images"])
    tokenizer, model, header = open_published(row, folders[row.name])
    expected = draw(sampling.packed(tokenizer), sampling.packed(model), header)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)
    assert (tmp_path / "grid.png").is_file()


def test_sample_downloads_and_takes_a_folder_in_place_of_a_name(folders, table, hub, tmp_path, capsys):
    command = ["sample", "--count", "1", "--out", str(tmp_path / "grid.png")]
    assert cli.main([*command, "--published", "tiny-var"]) == 0
    assert hub.asked == list(VAR_ROW.files)
    assert cli.main([*command, "--published", "tiny-var", "--offline"]) == 0
    whole_schedule = write(tmp_path / "d16", VAR_ROW, *published_schedule())
    command += ["--published", str(whole_schedule), "--cfg", "0", "--classes"]
    assert cli.main([*command, "4"]) == 0
    capsys.readouterr()
    assert "Classes are written as 3, 0-9" in refused(capsys, *command, "tench")  # it has five classes without names


def published_schedule() -> tuple[VQVAE, VAR]:
    """A pair whose schedule can be told from its 680 tokens."""
    schedule = minivar.scales.VAR_256
    tokenizer = wake(VQVAE(TokenizerConfig(image_size=256, nets=NETS, schedule=schedule, **CODES)))
    return tokenizer, wake(VAR(var_config(schedule=schedule)))


def test_sample_refuses_what_does_not_go_together(folders, table, tmp_path, capsys):
    out = ("--out", tmp_path / "grid.png")
    var, folder = ("--published", "tiny-var"), folders["tiny-var"]
    for words, said in (
        ((*var, "--checkpoint", "x"), "--checkpoint and --published each name a model: expected one of them, got x"),
        (("--from", folder), "--from and --offline are for --published"),
        (("--offline",), "--from and --offline are for --published"),
        (("--published", folder, "--from", folder), "--published is a folder, "),
        (("--published", "llamagen-t2i-xl-512"), "llamagen-t2i-xl-512 draws from captions"),
        ((*var, "--from", folder, "--classes", "golden retrever"), "ImageNet has no one class 'golden retrever'"),
        ((*var, "--from", folder, "--classes", "1000"), "Classes must lie in 0..999; got '1000'"),
        ((*var, "--from", folder, "--temperature", 2), "--temperature is not for VAR models; got one in tiny-var"),
        (("--classes", "three"), "Classes are written as 3, 0-9 or 1,4-6; got 'three'"),
    ):
        assert said in refused(capsys, "sample", *words, *out), words
    assert list(tmp_path.iterdir()) == []


def test_captions_in_a_folder_are_refused_too(tmp_path, capsys):
    texts = write(tmp_path / "texts", GPT_ROW, *gpt_pair(num_classes=0, caption_tokens=3, caption_dim=8))
    assert "draws from captions" in refused(capsys, "sample", "--published", texts, "--out", tmp_path / "g.png")
    assert not (tmp_path / "g.png").exists()
