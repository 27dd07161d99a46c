"""Servers of small models, each in a thread of its own, for the tests of the API and of the page."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import torch
import uvicorn
from conftest import tokenizer_config, var_config, wake

from minivar.models import GPT, VAR, GPTConfig
from minivar.sampling import sample, sample_raster
from minivar.serving import Limits, Service
from minivar.serving.server import build_app, listen_on
from minivar.tokenizer import VQVAE

# Seconds after which a test gives up: nothing here takes more than a few, but other machines may be busy.
PATIENCE = 300

GPT_CONFIG = GPTConfig(depth=2, width=32, heads=2, grid=(4, 4), codebook_size=16, num_classes=5)
SETTINGS = {"scales": {"cfg": 2.0, "top_k": 12, "top_p": 0.9}, "rows": {"cfg": 2.0, "top_k": 12}}


def pairs() -> dict[str, tuple]:
    """Two models of 16 x 16 grey pixels and five classes, with their tokenizers."""
    return {
        "scales": (wake(VQVAE(tokenizer_config())), wake(VAR(var_config()))),
        "rows": (wake(VQVAE(tokenizer_config(quantizer="single", schedule=None))), wake(GPT(GPT_CONFIG))),
    }


PAIRS = pairs()


def drawn_alone(name: str, label: int, seed: int) -> torch.Tensor:
    """The picture (1, 16, 16) in [0, 1] that a request must give, by the sampling loops that know no batches."""
    tokenizer, model = PAIRS[name]
    loop = sample if name == "scales" else sample_raster
    generator = torch.Generator().manual_seed(seed)
    return loop(model, tokenizer, torch.tensor([label]), generator=generator, **SETTINGS[name]).images[0]


class Server:
    """A server that runs: its services by name, and a client that knows its address."""

    def __init__(self, services: list[Service], address: str) -> None:
        self.services, self.address = {service.name: service for service in services}, address
        self.client = httpx.Client(base_url=address, timeout=PATIENCE)

    def status(self, name: str) -> dict:
        """What ``/health`` says of a model."""
        return self.client.get("/health").json()["models"][name]

    def wait_for(self, name: str, **expected: int) -> None:
        """Until ``/health`` says so of a model."""
        until = time.monotonic() + PATIENCE
        while not expected.items() <= (found := self.status(name)).items():
            assert time.monotonic() < until, f"expected {expected}, got {found}"
            time.sleep(0.005)


@contextmanager
def running(**limits: int) -> Iterator[Server]:
    """A server of ``pairs`` on a free port of this machine."""
    bounds = Limits(**limits)
    services = [Service(name, *pair, SETTINGS[name], bounds) for name, pair in pairs().items()]
    with listen_on("127.0.0.1", 0) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(build_app(services, bounds), log_config=None, access_log=False)
        uvicorn_server = uvicorn.Server(config)
        thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(services, address)
        finally:
            uvicorn_server.should_exit = True
            thread.join()
