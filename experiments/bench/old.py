"""The package as it was at an early commit, beside today's in one process, so that both can be timed in turn.

Its sources come out of git's history and are imported under another name: only their imports of ``minivar`` are
rewritten. What it computes is what it computed then.
"""

import dataclasses
import importlib
import io
import math
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from experiments.bench.reference.weights import weights_of
from minivar.checkpoints import KINDS

COMMIT = "04a0904"
NAME = f"minivar_{COMMIT}"
ROOT = Path(__file__).resolve().parents[2]
IMPORT = re.compile(r"^(\s*)(from|import) minivar\b", re.MULTILINE)


class OldPackage:
    """The modules of the package at ``COMMIT``; ``ValueError``, with git's reason, where they cannot be had.

    ``folder`` receives its sources, and must stay as long as the package is used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            command = ["git", "archive", COMMIT, "minivar"]
            archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        except FileNotFoundError as error:
            raise ValueError(f"no git to take the package at {COMMIT} from") from error
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.decode(errors="replace").splitlines() or ["git gave no reason"])[0]
            raise ValueError(f"the package at {COMMIT} is not in git's history here ({reason})") from error
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in files:
                if member.isfile() and member.name.endswith(".py"):
                    path = folder / NAME / Path(member.name).relative_to("minivar")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    source = files.extractfile(member).read().decode()
                    path.write_text(IMPORT.sub(rf"\1\2 {NAME}", source))
        sys.path.insert(0, str(folder))
        try:
            for name in [name for name in sys.modules if name.split(".")[0] == NAME]:  # of a folder that is gone
                del sys.modules[name]
            self.sampler, self.tasks, self.data, self.train = (
                importlib.import_module(f"{NAME}.{module}") for module in ("sampler", "tasks", "data", "train")
            )
            self.own: ModuleType = importlib.import_module(f"{NAME}.checkpoints.own")
        except ImportError as error:
            raise ValueError(f"the package at {COMMIT} cannot be imported here ({error})") from error
        finally:
            sys.path.remove(str(folder))

    def model(self, model: nn.Module) -> nn.Module:
        """The old class of a tokenizer or transformer, on the same tensors, in eval mode."""
        kind = next(name for name, (kind, _) in KINDS.items() if isinstance(model, kind))
        model_class, config_class = self.own.KINDS[kind]
        known = {field.name for field in dataclasses.fields(config_class)}
        values = {name: value for name, value in dataclasses.asdict(model.config).items() if name in known}
        with torch.device("meta"):
            old = model_class(self.own.config_from_dict(config_class, values))
        old.load_state_dict(weights_of(model), assign=True)
        return old.eval()

    def training_step(self, task, recipe: dict, order: Tensor, device: torch.device) -> Callable:
        """One step as ``train.fit`` took it then, on the images ``order``: a function that returns loss and norm.

        ``recipe``: lr, betas, weight_decay and clip, as the reference takes them.
        """
        model = task.model.train()
        decay, plain = self.train.parameter_groups(model)
        groups = [{**decay, "weight_decay": recipe["weight_decay"]}, {**plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=recipe["lr"], betas=recipe["betas"])

        def step() -> tuple[Tensor, Tensor]:
            optimizer.zero_grad(set_to_none=True)
            loss, _ = task.loss(order, device)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
            if not all(math.isfinite(value.detach()) for value in (loss, norm)):
                raise ValueError(f"The loss of the package at {COMMIT} became {loss.item()}.")
            optimizer.step()
            return loss.detach(), norm.detach()

        return step
