"""The server: four addresses on 127.0.0.1, and a page.

Starlette routes requests and uvicorn speaks HTTP. They are what most Python servers of models stand on, vLLM's among
them (through FastAPI, whose validation is left out here: ``Request`` checks itself as all configurations do). The
models draw in threads of their own (``Worker``); what runs here only waits and passes on.

GET  /          the page
GET  /models    what is served, and the settings it is drawn with
GET  /health    whether all workers are alive, how many pictures wait
POST /generate  a request as JSON -> PNG, or JSON
GET  /stream    one picture while it is drawn, as server-sent events; the request's fields are the query's
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from torch import Tensor

from minivar.serving.jobs import Job
from minivar.serving.service import Limits, Service, png, read_request
from minivar.serving.worker import Full

PAGE = Path(__file__).parent / "page.html"
RETRY_SECONDS = 1  # what whoever finds the queue full is advised to wait


class Order:
    """The jobs of one request on their way, and what is heard of them."""

    def __init__(self, service: Service, given: object, watched: bool = False) -> None:
        self.service, self.request, self.started = service, read_request(given), time.monotonic()
        if watched and self.request.images > 1:
            raise ValueError(f"One picture at a time can be watched; got a request for {self.request.images}.")
        self.events, loop = asyncio.Queue(), asyncio.get_running_loop()

        def listen(job: Job, event: str, value: object) -> None:  # called by the worker's thread
            loop.call_soon_threadsafe(self.events.put_nowait, (job, event, value, job.stage))

        self.jobs = service.jobs(self.request, listen, watched)

    def submit(self) -> None:
        """Into the queue; ``Full`` if there is no room."""
        self.service.worker.submit(self.jobs)

    def cancel(self) -> None:
        """Nobody waits any more; of no consequence for what has ended."""
        self.service.worker.cancel(self.jobs)

    async def images(self) -> list[Tensor]:
        """All pictures, in the order of the request; ``Failed`` as soon as one cannot be drawn."""
        done: dict[Job, Tensor] = {}
        while len(done) < len(self.jobs):
            job, event, value, _ = await self.events.get()
            if event == "failed":
                raise Failed(job, value)
            done[job] = value
        return [done[job] for job in self.jobs]

    async def stages(self) -> AsyncIterator[str]:
        """The events of its one picture, "stage" and at last "done" or "failed", as the text of a stream."""
        event = "stage"
        try:
            while event == "stage":
                job, event, value, stage = await self.events.get()
                if event == "failed":
                    told = {"error": str(Failed(job, value))}
                else:
                    told = {"stage": stage, "seconds": self.seconds, "png": in_base64(value)}
                yield f"event: {event}\ndata: {json.dumps(told)}\n\n"
        finally:  # also where the client hangs up, and Starlette ends the stream
            self.cancel()

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return round(time.monotonic() - self.started, 4)


class Failed(Exception):
    """A picture that could not be drawn."""

    def __init__(self, job: Job, error: Exception) -> None:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        super().__init__(f"Class {job.label} with seed {job.seed} could not be drawn: {reason}.")


# What answers -----------------------------------------------------------------------------------------------------


async def page(request: HTTPRequest) -> Response:
    """One file, without anything from elsewhere."""
    return FileResponse(PAGE)


async def models(request: HTTPRequest) -> Response:
    """What is served."""
    return JSONResponse({"models": [service.describe() for service in request.app.state.services.values()]})


async def health(request: HTTPRequest) -> Response:
    """200 as long as every worker is alive."""
    found = {name: service.worker.status() for name, service in request.app.state.services.items()}
    well = all(status["alive"] for status in found.values())
    return JSONResponse({"status": "ok" if well else "broken", "models": found}, 200 if well else 503)


async def generate(request: HTTPRequest) -> Response:
    """All pictures of a request, when the last of them is drawn."""
    given = await read_json(request, request.app.state.limits.most_bytes)
    order = Order(find(request, given), given)
    order.submit()
    try:
        images = await unless_gone(request, order.images())
    finally:
        order.cancel()
    if images is None:
        return Response(status_code=499)  # as nginx notes it; nobody is there to read it
    if order.request.format == "png":
        return Response(await asyncio.to_thread(png, images), media_type="image/png")
    pictures = [
        {"class": job.label, "seed": job.seed, "png": in_base64(image)}
        for job, image in zip(order.jobs, images, strict=True)
    ]
    return JSONResponse({"model": order.service.name, "seconds": order.seconds, "images": pictures})


async def stream(request: HTTPRequest) -> Response:
    """One picture while it fills in."""
    given = read_query(request)
    order = Order(find(request, given), given, watched=True)
    order.submit()  # here, where a full queue can still be the answer
    return StreamingResponse(order.stages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def find(request: HTTPRequest, given: object) -> Service:
    """The model that a request names; any, where it names none, which ``read_request`` will say."""
    services = request.app.state.services
    first = next(iter(services))
    name = given.get("model", first) if isinstance(given, dict) else first
    if not isinstance(name, str) or name not in services:
        raise ValueError(f"This server has the models {', '.join(services)}; got {name!r:.80}.")
    return services[name]


async def say(request: HTTPRequest, error: Exception) -> Response:
    """Every error is one sentence in JSON: 400 for a request that cannot be meant, 503 for a full queue."""
    status, headers, sentence = 400, None, str(error)
    if isinstance(error, HTTPException):
        status, headers, sentence = error.status_code, error.headers, error.detail
        if status in (404, 405):
            sentence = f"Nothing answers {request.method} {request.url.path!r:.80}: GET /, /models, /health and "
            sentence += "/stream do, and POST /generate."
    elif isinstance(error, Full):
        status, headers = 503, {"Retry-After": str(RETRY_SECONDS)}
    elif isinstance(error, Failed):
        status = 500
    elif not isinstance(error, ValueError):  # a mistake of ours, whose traceback uvicorn prints
        status, sentence = 500, f"The server failed at this request: {error!r:.200}."
    return JSONResponse({"error": sentence}, status, headers)


async def read_json(request: HTTPRequest, most_bytes: int) -> object:
    """The body, which is read only as far as it may be long."""
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > most_bytes:
                raise HTTPException(413, f"The body of a request may have {most_bytes} bytes; got more.")
    except ClientDisconnect:
        raise ValueError(f"The client hung up in the middle of a request; got {len(body)} bytes of it.") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        start = bytes(body[:40]).decode(errors="replace")
        raise ValueError(f"The body of a request must be JSON; got {start!r}.") from None


def read_query(request: HTTPRequest) -> dict[str, object]:
    """The fields of a request from an address, where all is text: numbers are read as JSON, class as classes."""
    given: dict[str, object] = {}
    for name, text in request.query_params.items():
        try:
            value = text if name in ("model", "format") else json.loads(text)
        except (ValueError, RecursionError):
            value = text  # which is not what is expected, as will be said
        given["classes" if name == "class" else name] = [value] if name == "class" else value
    return given


async def unless_gone(request: HTTPRequest, work) -> object:
    """What ``work`` gives, or None if the client hangs up before."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def hung_up(request: HTTPRequest) -> None:
    """Ends when the client has; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def in_base64(image: Tensor) -> str:
    """A picture as PNG, as text."""
    return base64.b64encode(png([image])).decode()


# The process ------------------------------------------------------------------------------------------------------


def build_app(services: list[Service], limits: Limits) -> Starlette:
    """The application for uvicorn; when it ends, the workers finish what is in their queues."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        for service in services:
            await asyncio.to_thread(service.worker.close)

    routes = [Route("/", page), Route("/models", models), Route("/health", health), Route("/stream", stream)]
    routes.append(Route("/generate", generate, methods=["POST"]))
    answers = dict.fromkeys((ValueError, Failed, HTTPException, Exception), say)
    app = Starlette(routes=routes, exception_handlers=answers, lifespan=lifespan)
    app.state.services, app.state.limits = {service.name: service for service in services}, limits
    return app


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that takes connections; ``ValueError`` if somebody else does, or nobody can. Port 0: any free one."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if (error.errno or 0) > 0 else error.strerror  # below 0: of no such host
        raise ValueError(
            f"Cannot listen on port {port} of {host} ({reason}): expected an address of this machine "
            "and a free port, which --port 0 finds."
        ) from error


def serve(services: list[Service], listening: socket.socket, limits: Limits) -> None:
    """Answer until SIGINT or SIGTERM comes; then what is under way is finished, unless SIGINT comes again."""
    config = uvicorn.Config(build_app(services, limits), log_level="warning", access_log=False)
    server = uvicorn.Server(config)

    def stop(*_) -> None:
        server.should_exit = True

    # uvicorn takes these signals while it runs, and raises them anew when it has ended: then nothing is to happen
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
