"""``minivar push``: a folder that the Hub takes, which ``minivar.load`` opens, and nothing where it cannot be."""

import dataclasses
import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from published_files import draw, var_pair

import minivar
from minivar import checkpoints, cli, files
from minivar.checkpoints import CheckpointError, release
from minivar.sampling import SamplingConfig


def refused(capsys, *argv: object) -> str:
    """What a command that fails prints: one line on standard error."""
    assert cli.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minivar: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def trained(tmp_path) -> Path:
    """A folder as training leaves it, with the scores of its model."""
    folder = tmp_path / "trained"
    tokenizer, model = var_pair()
    checkpoints.save(tokenizer, folder / "tokenizer.safetensors", taken_from="/a/folder/of/its/machine")
    about = {"preset": "tiny", "dataset": "digits", "sampling": {"cfg": 2.0, "top_k": 12, "top_p": 0.9}}
    checkpoints.save(model, folder / "var.safetensors", run="/another", trained={"steps": 3000}, **about)
    (folder / "scores.json").write_text('{"fid": 3.25, "precision": 0.5, "codes_used": [0.5], "novelty": 0.125}')
    return folder


def push(*argv: object) -> int:
    return cli.main(["push", *map(str, argv)])


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_a_pushed_folder_draws_the_same_images(trained, tmp_path, capsys):
    out = tmp_path / "out"
    assert push(trained, "--out", out, "--licence", "mit") == 0
    names = ["README.md", "config.json", "scores.json", "tokenizer.safetensors", "var.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert capsys.readouterr().out == f"{out}: {', '.join(names)}\n"
    tokenizer, model, header = minivar.load(out)
    assert torch.equal(draw(tokenizer, model, header), draw(*minivar.load(trained)))
    assert header["trained"] == {"steps": 3000}
    assert "run" not in header  # nor any other folder of the machine
    assert not any(b"/another" in path.read_bytes() or b"/a/folder" in path.read_bytes() for path in out.iterdir())
    described = json.loads((out / "config.json").read_text())
    assert described["var.safetensors"]["kind"] == "VAR"
    assert files.config_from_dict(type(model.config), described["var.safetensors"]["config"]) == model.config


def test_float16_halves_the_files_and_draws_what_the_rounded_weights_draw(trained, tmp_path):
    assert push(trained, "--out", tmp_path / "half", "--licence", "mit", "--precision", "float16") == 0
    sizes = [(folder / "var.safetensors").stat().st_size for folder in (tmp_path / "half", trained)]
    assert sizes[0] < 0.6 * sizes[1]
    tokenizer, model, header = minivar.load(trained)
    for module in (tokenizer, model):
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    assert torch.equal(draw(*minivar.load(tmp_path / "half")), draw(tokenizer, model, header))


def test_the_card_says_what_the_hub_reads_and_how_to_load_it(trained, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = ("--repo", "me/tiny", "--dataset", "ylecun/mnist")
    assert push(trained, "--out", out, "--license", "cc-by-sa-4.0", *words) == 0
    front = front_matter(out)
    assert front["license"] == "cc-by-sa-4.0"
    assert front["datasets"] == ["ylecun/mnist"]
    assert front["library_name"] == "minivar" and "var" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"fid": 3.25, "precision": 0.5}
    text = (out / "README.md").read_text()
    assert "By minivar's preset `tiny`, on ylecun/mnist: 3,000 steps." in text
    assert "| novelty | 0.125 |" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: {"me/tiny": out}[name])
    found: dict = {}
    exec(code, found)
    assert found["images"].shape == (10, 3, 64, 64)


def test_a_card_without_scores_or_data_set_claims_none(tmp_path):
    checkpoints.save(var_pair()[0], tmp_path / "bare" / "tokenizer.safetensors")
    checkpoints.save(var_pair()[1], tmp_path / "bare" / "var.safetensors")
    assert push(tmp_path / "bare", "--out", tmp_path / "out", "--licence", "mit") == 0
    assert not {"datasets", "metrics", "model-index"} & set(front_matter(tmp_path / "out"))
    assert "None were measured." in (tmp_path / "out" / "README.md").read_text()
    header = minivar.load(tmp_path / "out")[2]
    assert header["sampling"] == dataclasses.asdict(SamplingConfig())  # for the card's own example


def test_a_folder_that_exists_is_not_touched(trained, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    message = refused(capsys, "push", trained, "--out", tmp_path / "out", "--licence", "mit")
    assert "exists: expected the name of a new folder, nothing is overwritten" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_bad_input_writes_nothing(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    licence, before = ("--licence", "mit"), sorted(tmp_path.iterdir())
    large = tmp_path / "trained" / "var.safetensors"
    for source, words, said in (
        (trained, (), "Nobody else knows the licence of your weights: expected --licence"),
        (tmp_path / "nowhere", licence, "No checkpoint directory at"),
        (trained, (*licence, "--repo", "tiny"), "A repository of the Hub is called owner/name; got 'tiny'"),
        (trained, (*licence, "--upload"), "--upload sends to a repository: expected --repo owner/name"),
        (trained, (*licence, "--public"), "--public is for --upload"),
        (trained, (*licence, "--repo", "me/tiny", "--upload"), "To upload takes a token: expected one in HF_TOKEN"),
    ):
        assert said in refused(capsys, "push", source, "--out", tmp_path / "new" / "out", *words), said
    tensors, header = files.read_tensors(large)
    tensors["head.bias"][0] = 1e6
    files.write_tensors(large, tensors, header)
    said = refused(capsys, "push", trained, "--out", tmp_path / "out", *licence, "--precision", "float16")
    assert "head.bias of var.safetensors has numbers beyond float16" in said
    (trained / "scores.json").write_text("{")
    assert "scores.json is damaged" in refused(capsys, "push", trained, "--out", tmp_path / "out", *licence)
    assert sorted(tmp_path.iterdir()) == before


def test_a_failure_in_the_middle_leaves_nothing(trained, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("No space left on device")

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(release.os, "rename", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        checkpoints.write_release(trained, tmp_path / "out", "mit")
    assert sorted(tmp_path.iterdir()) == before


class Api:
    """In place of the Hub's: keeps what it was sent."""

    sent: list = []
    refuses = False

    def __init__(self, token):
        self.token = token

    def create_repo(self, name, private, exist_ok):
        if self.refuses:
            raise OSError("403 Forbidden.\nMore about it.")
        self.sent.append((self.token, name, private))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.sent.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "sent", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    return Api


@pytest.mark.parametrize("public", [False, True])
def test_upload_sends_the_folder_to_a_repository_that_is_private_unless_told(trained, tmp_path, capsys, api, public):
    words = ("--repo", "me/tiny", "--upload", *(["--public"] if public else []))
    assert push(trained, "--out", tmp_path / "out", "--licence", "mit", *words) == 0
    created, (repository, sent) = api.sent
    assert created == ("secret", "me/tiny", not public)
    assert repository == "me/tiny" and sent == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "sent to https://huggingface.co/me/tiny\n" in capsys.readouterr().out


def test_an_upload_that_fails_leaves_the_folder_and_says_how_to_send_it(trained, tmp_path, capsys, api, monkeypatch):
    monkeypatch.setattr(api, "refuses", True)
    out = tmp_path / "out"
    assert push(trained, "--out", out, "--licence", "mit", "--repo", "me/tiny", "--upload") == 2
    message = capsys.readouterr().err
    assert f"(403 Forbidden.): the folder is whole, and hf upload me/tiny {out} sends it.\n" in message
    assert "secret" not in message
    minivar.load(out)
