"""``make gpu-check`` in miniature, on the CPU: what can be compared there is, and the report can be pasted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "gpu_check.py"


@pytest.mark.slow
@pytest.mark.distributed
def test_the_check_runs_from_start_to_end_and_reports(tmp_path):
    out = tmp_path / "report.md"
    command = [sys.executable, SCRIPT, "--device", "cpu", "--quick", "--out", out]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads wait for each other where tests run side by side
    done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
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
