"""The command line: ``minivar train | tokenize | sample | reconstruct | info | complexity | plan | report``.

Also ``python -m minivar.cli``. A command is a module here, with ``add_arguments`` and ``run``, whose docstring is the
help. Every error that a user can cause is one sentence on standard error and exit code 2.
"""

import argparse
import sys

from minivar.cli import complexity, info, plan, reconstruct, report, sample, tokenize, train

COMMANDS = {
    "train": train,
    "tokenize": tokenize,
    "sample": sample,
    "reconstruct": reconstruct,
    "info": info,
    "complexity": complexity,
    "plan": plan,
    "report": report,
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
    args = build_parser().parse_args(argv)
    try:
        args.function(args)
    except (ValueError, OSError) as error:
        print(f"minivar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minivar: stopped; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0
