"""``minivar push``: a folder that the Hugging Face Hub takes."""

import argparse
from pathlib import Path

from minivar.checkpoints import release
from minivar.evaluation import scores_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar push``."""
    parser.add_argument("folder", metavar="FOLDER", help="filled by training: tokenizer, transformer, scores.json")
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder: weights, config.json, README.md")
    licence = "of the weights, as the Hub calls it: mit, apache-2.0, cc-by-sa-4.0 ...; nobody else can know it"
    parser.add_argument("--licence", "--license", metavar="NAME", help=licence)
    parser.add_argument("--repo", metavar="OWNER/NAME", help="where on the Hub, for the card and --upload")
    data = "what it learned from, as the Hub calls it; may be given several times (default: as minivar calls it)"
    parser.add_argument("--dataset", action="append", default=[], metavar="NAME", help=data)
    weights = "of the stored weights; float16 halves the files, and changes images a little (default: float32)"
    parser.add_argument("--precision", choices=tuple(release.PRECISIONS), default="float32", help=weights)
    upload = "send the folder to --repo, private if it is new, with the token of HF_TOKEN or of hf auth login"
    parser.add_argument("--upload", action="store_true", help=upload)
    parser.add_argument("--public", action="store_true", help="for --upload: let everyone see a new repository")


def run(args: argparse.Namespace) -> None:
    """Write a trained pair as the Hugging Face Hub takes it, with a model card; and send it there, if asked to."""
    if not args.licence:
        raise ValueError(
            "Nobody else knows the licence of your weights: expected --licence, for instance mit; got none."
        )
    if args.public and not args.upload:
        raise ValueError("--public is for --upload; got it without.")
    if args.upload and not args.repo:
        raise ValueError("--upload sends to a repository: expected --repo owner/name, got none.")
    if args.upload:
        release.find_token()  # before anything is written
    scores = scores_of(args.folder)
    given = (args.licence, args.repo, args.precision, scores, args.dataset)
    out = release.write_release(args.folder, Path(args.out), *given)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if args.upload:
        print(f"sent to {release.upload(out, args.repo, args.public)}")
