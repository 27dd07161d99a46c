"""How a run is started: the command for one machine, and the batch script for many.

Both ask torchrun to pass SIGUSR1 on to the ranks, which save their state and leave, and to wait until they have: by
default it dies of SIGUSR1, passes SIGTERM on, and kills what is still there half a minute later.
"""

import math

from minivar.analysis.costs import recipe

# Seconds that ranks have to come to their next entry of the log, 50 steps at most, and to save, once they are asked
# to stop. A rank that has died takes the others with it only after as long.
SAVING = 600
PASSED_ON = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # torchrun's defaults and SIGUSR1


class LaunchError(ValueError):
    """GPUs that cannot be asked for."""


def _torchrun(gpus: int, *rendezvous: str) -> list[str]:
    """The words of torchrun for so many GPUs on a machine, in groups."""
    signals = f"--signals-to-handle={PASSED_ON} --shutdown-timeout={SAVING}"
    return [f".venv/bin/torchrun --nproc-per-node={gpus}", *rendezvous, signals]


def _train(name: str, strategy: str) -> str:
    spread = f" --strategy {strategy}" if strategy else ""
    return f'-m minivar.cli train --preset {name} --device cuda{spread} --data "$DATA" --out runs/{name}'


def one_node(name: str, gpus: int, strategy: str = "fsdp") -> str:
    """The command that trains a preset on the GPUs of one machine. DATA is the folder of the images.

    The same command resumes. SIGUSR1 or SIGTERM makes the run save its state and end.
    """
    if gpus == 1:
        return f".venv/bin/python {_train(name, '')}"
    return " ".join([*_torchrun(gpus, "--standalone"), _train(name, strategy)])


def slurm_script(name: str, gpus: int, strategy: str = "fsdp", per_node: int = 8, hours: int = 48) -> str:
    """A batch script that runs ``minivar train`` on as many nodes as the GPUs fill, and again until it is done.

    SLURM's ``--requeue`` does not act on a time limit. So the batch shell, and it alone, gets SIGUSR1 before that
    (``--signal=B:``) and passes it on: srun to torchrun (its SIGTERM would kill the tasks), torchrun to the ranks.
    They save, and exit with 75, for which torchrun exits with 1; that the signal came tells the script to put
    the job into the queue again. Raises ``LaunchError`` for GPUs that do not fill the nodes.
    """
    here = min(gpus, per_node)
    if gpus % here:
        fewer, more = gpus // per_node * per_node, math.ceil(gpus / per_node) * per_node
        raise LaunchError(
            f"{gpus} GPUs do not fill nodes of {per_node}: expected a multiple of {per_node}, such as {fewer} or "
            f"{more}."
        )
    meeting = "--rdzv-backend=c10d --rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=$head:$port"
    words = [*_torchrun(here, "--nnodes=$SLURM_NNODES", meeting), _train(name, strategy)]
    command = " \\\n    ".join(words)
    return f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={gpus // here}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={here}
#SBATCH --cpus-per-task={8 * here}
#SBATCH --time={hours}:00:00
#SBATCH --signal=B:USR1@{SAVING + 120}
#SBATCH --requeue
#SBATCH --open-mode=append
# {recipe(name)}
# DATA must hold train/ and val/ with one folder a class. Before the time is up the run saves its state, and the job
# goes back into the queue; there, or submitted again by hand, it goes on.
# From a token cache of minivar tokenize: replace --data "$DATA" by --tokens CACHE --tokenizer RUN.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK  # since SLURM 22.05 srun does not take it from the job
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share the first node

stopped=
trap 'stopped=yes; kill -USR1 $run' USR1
srun {command} &
run=$!
wait $run
code=$?
if [ -n "$stopped" ]; then  # the signal has ended the wait above, not the run
    wait $run
    code=$?
    [ $code -eq 0 ] || scontrol requeue $SLURM_JOB_ID
fi
exit $code"""
