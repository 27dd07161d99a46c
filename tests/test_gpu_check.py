"""``make gpu-check`` in miniature, on the CPU: what can be compared there is, and the report can be pasted."""

import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch

from experiments import gpu_check
from minivar import cli

SCRIPT = Path(gpu_check.__file__)


class Started:
    """What the check asks of ``subprocess.Popen``, of processes that have imported everything already.

    To start Python and PyTorch nine times takes longer than all that is checked. The commands themselves, and
    ``torchrun``, are started by test_launch.py and test_notebook_13.py.
    """

    def __init__(self, words: list[str], count: int, said: Path) -> None:
        self.code = self.process = None
        if count == 1:
            self.process = processes.start(cli.main, words, said=said)
        else:
            self.code = max(map(abs, processes.run_ranks(count, cli.main, words, said=said)))

    def poll(self) -> int | None:
        """None while it runs."""
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """To the process."""
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Its exit code."""
        if self.process is not None:
            self.process.join(timeout=300)
            self.code = self.process.exitcode
        return self.code


@pytest.mark.slow
@pytest.mark.distributed
def test_the_check_runs_from_start_to_end_and_reports(tmp_path, monkeypatch, capsys):
    out = tmp_path / "report.md"

    def start(machine: gpu_check.Machine, name: str, count: int, strategy: str) -> Started:
        return Started(gpu_check.command(machine, name, strategy), count, tmp_path / f"{name}.said")

    monkeypatch.setattr(gpu_check, "start", start)
    monkeypatch.setattr(torch, "compile", torch.compile)  # which the check replaces: as it was, afterwards
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", "--quick", "--out", str(out)])
    assert gpu_check.main() == 0, capsys.readouterr()
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    verdicts = {row[0].removeprefix("| "): row[3].removesuffix(" |") for row in rows}
    compared = {what for what, verdict in verdicts.items() if verdict == "ok"}
    assert compared == {
        *("tokenizer compiled", "var compiled", "stopped by SIGTERM", "tokenizer resumed", "var resumed"),
        "tokenizer, channels last",
        *(f"{phase}, {strategy} x 2" for phase in ("tokenizer", "var") for strategy in ("ddp", "fsdp")),
    }
    # A CPU trains in float32, and nobody counts its bytes.
    alone = {f"training in {precision}" for precision in ("tf32", "bf16", "fp16")}
    assert alone <= {what for what, verdict in verdicts.items() if verdict == "not here"}
    assert "losses apart by" in out.read_text()


def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, "--device", "cuda:99"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Cannot use the device 'cuda:99'") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
