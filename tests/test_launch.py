"""How runs are started: commands that parse, and a batch script that saves before its time is up, played through."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minivar import cli, presets
from minivar.analysis import costs, launch

FULL = [name for name in presets.PRESETS if name.startswith(("var-", "llamagen-"))]


@pytest.mark.parametrize("name", FULL)
def test_every_published_preset_has_a_script(name):
    text = launch.slurm_script(name, 16)
    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=2\n" in text
    assert f"--preset {name} --device cuda --strategy fsdp" in text
    assert costs.recipe(name) in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", FULL)
def test_every_published_preset_has_a_command_for_one_machine(name):
    words = shlex.split(launch.one_node(name, 8, "ddp"))
    assert words[:3] == [".venv/bin/torchrun", "--nproc-per-node=8", "--standalone"]
    where = words.index("-m")
    assert words[where + 1] == "minivar.cli"
    args = cli.build_parser().parse_args(words[where + 2 :])
    assert (args.preset, args.device, args.strategy, args.data) == (name, "cuda", "ddp", "$DATA")


def test_one_gpu_needs_no_torchrun():
    words = shlex.split(launch.one_node("cifar32", 1))
    assert words[:3] == [".venv/bin/python", "-m", "minivar.cli"]
    args = cli.build_parser().parse_args(words[3:])
    assert (args.preset, args.device, args.data) == ("cifar32", "cuda", "$DATA")


def test_gpus_that_do_not_fill_nodes_are_refused():
    with pytest.raises(launch.LaunchError, match="12 GPUs do not fill nodes of 8: .*, such as 8 or 16"):
        launch.slurm_script("var-d16", 12)
    assert "#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=4" in launch.slurm_script(
        "var-d16", 4
    )


def test_recipes_and_costs_are_the_published_ones():
    assert costs.recipe("var-d16") == (
        "batch 768, learning rate 0.0003, 200 epochs; published: 2.5 days on 16 GPUs, 40 GPU-days"
    )
    assert costs.recipe("var-d30") == "batch 1024, learning rate 0.00032, 350 epochs"
    assert costs.recipe("llamagen-3b-256") == (
        "batch 512, learning rate 0.0002, 50 epochs; its authors, of a resolution and epochs not named: 5 days on 32 "
        "GPUs, 160 GPU-days"
    )
    assert costs.recipe("llamagen-b-384").startswith("batch 256, learning rate 0.0001, 300 epochs; its authors, of a")


# The batch script ---------------------------------------------------------------------------------------------------

STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo node7; echo node8; else echo "$@" >> said; fi',
    # What srun is given, one word a line; then a run that ends by itself, or when it is told to, as torchrun does
    "srun": """printf '%s\\n' "$@" > words
echo "cpus $SRUN_CPUS_PER_TASK" >> said
trap 'echo saved >> said; exit 1' USR1
touch began
for i in $(seq ${RUNS_FOR:-200}); do sleep 0.05; done
exit ${ENDS_WITH:-0}""",
}


def play(folder: Path, signalled: bool = False, **environment: str) -> tuple[int, list[str]]:
    """Run d36-s's script where SLURM's commands are stand-ins; its exit code, and what they noted."""
    for name, text in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "job.sh").write_text(launch.slurm_script("var-d36-s", 128))
    slurm = {"SLURM_JOB_ID": "123456", "SLURM_NNODES": "16", "SLURM_JOB_NODELIST": "node[7-8]"}
    slurm |= {"SLURM_CPUS_PER_TASK": "64", "DATA": "/data/image net", "PATH": f"{folder}:{os.environ['PATH']}"}
    job = subprocess.Popen(["bash", "job.sh"], cwd=folder, env={**os.environ, **slurm, **environment})
    if signalled:
        while not (folder / "began").exists() and job.poll() is None:
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
    code = job.wait(timeout=30)
    return code, (folder / "said").read_text().splitlines()


def test_before_its_time_is_up_the_job_saves_and_queues_again(tmp_path):
    code, said = play(tmp_path, signalled=True)
    assert said == ["cpus 64", "saved", "requeue 123456"]
    assert code == 1


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path, code):
    assert play(tmp_path, RUNS_FOR="1", ENDS_WITH=code) == (int(code), ["cpus 64"])


def test_what_srun_is_told(tmp_path):
    play(tmp_path, RUNS_FOR="1")
    words = (tmp_path / "words").read_text().splitlines()
    assert words[0] == ".venv/bin/torchrun"
    assert {"--nnodes=16", "--rdzv-id=123456", "--rdzv-endpoint=node7:23456", "--nproc-per-node=8"} <= set(words)
    args = cli.build_parser().parse_args(words[words.index("-m") + 2 :])
    assert (args.preset, args.strategy, args.data) == ("var-d36-s", "fsdp", "/data/image net")


RANK = """
import os, signal, sys, time
def leave(number, frame):
    open(f"rank{os.environ['RANK']}", "w").write(signal.Signals(number).name)
    time.sleep(1)  # as if it saved
    open(f"saved{os.environ['RANK']}", "w").close()
    sys.exit(75)
for name in ("SIGUSR1", "SIGTERM"):
    signal.signal(getattr(signal, name), leave)
open(f"began{os.environ['RANK']}", "w").close()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_torchrun_passes_signals_on_and_waits_for_the_ranks(tmp_path, name):
    (tmp_path / "rank.py").write_text(RANK)
    words = shlex.split(launch.one_node("var-d16", 2))
    start = [sys.executable, "-m", "torch.distributed.run", *words[1 : words.index("-m")], "rank.py"]
    job = subprocess.Popen(start, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while len(list(tmp_path.glob("began*"))) < 2 and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(getattr(signal, name))
    said = job.communicate(timeout=60)[1]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == [name] * 2, said
    assert len(list(tmp_path.glob("saved*"))) == 2
    assert job.returncode == 1  # not 75: the batch script goes by the signal
