"""The command line: train, tokenize, sample, edit, reconstruct, evaluate, info, complexity, plan, report, serve ...

Also ``python -m minivar.cli``. A command is a module here, with ``add_arguments`` and ``run``, whose docstring is the
help. Every error that a user can cause is one sentence on standard error and exit code 2; a run that
was asked to stop by a signal, and saved its state, ends with 75.
"""

import argparse
import sys

import torch

from minivar.allocation import keep_memory
from minivar.cli import (
    complexity,
    edit,
    evaluate,
    info,
    plan,
    push,
    reconstruct,
    report,
    sample,
    serve,
    tokenize,
    train,
)
from minivar.training.interruption import EXIT_CODE, Interrupted

COMMANDS = {
    "train": train,
    "tokenize": tokenize,
    "sample": sample,
    "edit": edit,
    "reconstruct": reconstruct,
    "evaluate": evaluate,
    "info": info,
    "complexity": complexity,
    "plan": plan,
    "report": report,
    "serve": serve,
    "push": push,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser, with help for a newcomer on every option."""
    parser = argparse.ArgumentParser(
        prog="minivar",
        description="Train autoregressive image models, next-scale and raster, and draw from them.",
        epilog="Start with: minivar sample --classes 0-9 --count 100 --out grid.png",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.run.__doc__, description=command.run.__doc__)
        command.add_arguments(sub)
        sub.set_defaults(function=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    if argv is None:  # the process is ours
        keep_memory()
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
    except Interrupted as interrupted:
        print("minivar:", interrupted, "The same command goes on from there.", file=sys.stderr)
        return EXIT_CODE
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if not isinstance(error, ValueError | OSError) and not is_out_of_memory(error):
            raise  # a mistake of ours, which its traceback helps to find
        said = str(error) if isinstance(error, ValueError | OSError) else f"There is not enough memory: {error}."
        print("minivar:", *said.split("\n"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minivar: stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0


def is_out_of_memory(error: Exception) -> bool:
    """Whether more memory was asked for than there is, or than can be addressed; on CPUs torch has no type for it."""
    words = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in words)
