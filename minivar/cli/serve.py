"""``minivar serve``: a page and an API."""

import argparse
from pathlib import Path

from minivar.cli.shared import SHIPPED, check_number, load_classes
from minivar.distributed import find_device
from minivar.serving import Limits, Service

SIDE_BY_SIDE = (SHIPPED, SHIPPED.parent / "duel-llamagen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``minivar serve``."""
    limits = Limits()
    folders = "folders with a tokenizer and a VAR or GPT, each served under the folder's name, the first two side by "
    folders += "side on the page (default: the shipped digits, and the shipped raster model)"
    parser.add_argument("--checkpoint", nargs="+", metavar="DIR", default=list(map(str, SIDE_BY_SIDE)), help=folders)
    address = "address to listen on; whoever reaches it may draw (default: 127.0.0.1, this machine alone)"
    parser.add_argument("--host", default="127.0.0.1", help=address)
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default: 8000)")
    slots = f"pictures that a model draws at once (default: {limits.slots})"
    parser.add_argument("--slots", type=int, default=limits.slots, help=slots)
    most = f"pictures that may wait for each model before more are refused (default: {limits.most_waiting})"
    parser.add_argument("--queue", type=int, default=limits.most_waiting, help=most)
    images = f"pictures that one request may ask for (default: {limits.most_images})"
    parser.add_argument("--most-images", type=int, default=limits.most_images, help=images)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (default: cpu)")


def run(args: argparse.Namespace) -> None:
    """Serve models to a browser and to programs, which may come all at once."""
    try:
        from minivar.serving.server import listen_on, serve  # here, because the packages are an extra
    except ModuleNotFoundError as error:
        raise ValueError(f"A server needs the package {error.name}: pip install 'minivar[serve]'.") from error

    check_number("--port", args.port, 0, 65_535)
    limits = Limits(args.slots, args.most_images, args.queue)
    device = find_device(args.device)
    names = [Path(folder).resolve().name for folder in args.checkpoint]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"Each model is served under the name of its folder, once; got {twice[0]} twice.")
    with listen_on(args.host, args.port) as listening:  # before the work of loading
        pairs = [load_classes(folder) for folder in args.checkpoint]
        services = [
            Service(name, tokenizer, model, header.get("sampling", {}), limits, device)
            for name, (tokenizer, model, header) in zip(names, pairs, strict=True)
        ]
        host, port = listening.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        served = ", ".join(f"{service.name} ({service.kind})" for service in services)
        print(f"Serving {served} on {address}; Ctrl-C stops when all that was asked for is drawn.", flush=True)
        serve(services, listening, limits)
    drawn = sum(service.worker.counts["drawn"] for service in services)
    print(f"Stopped; {drawn} pictures were drawn.")
