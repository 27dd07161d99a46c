"""``minivar serve`` as its clients see it: under load, when it says no, and when it stops."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import socket
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from processes import start
from servers import PATIENCE, SETTINGS, Server, drawn_alone, pairs, running

from minivar import checkpoints, cli
from minivar.models import MaskGIT, MaskGITConfig
from minivar.serving.server import listen_on


@pytest.fixture(scope="module")
def server():
    with running(slots=3, most_images=8, most_waiting=200) as found:
        yield found


@pytest.fixture
def own_server():
    """One that a test may break."""
    with running(slots=2, most_images=4, most_waiting=4) as found:
        yield found


def hold(server: Server, name: str, monkeypatch) -> threading.Event:
    """Let no step of a model be taken before the event."""
    engine, go = server.services[name].worker.engine, threading.Event()
    step = engine.step

    def waits():
        assert go.wait(PATIENCE)
        return step()

    monkeypatch.setattr(engine, "step", waits)
    return go


def assert_shows(png: bytes, expected: torch.Tensor) -> None:
    """A PNG of this picture: rounding of float32 may move a pixel by one level."""
    pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
    assert pixels.shape == (16, 16)
    assert np.abs(pixels - expected[0].numpy() * 255).max() < 1.01


# Answers ----------------------------------------------------------------------------------------------------------


def test_under_load_everybody_gets_the_pictures_they_asked_for(server):
    """A hundred requests at once for either model, some of them impossible: each has its own right answer."""
    before = {name: server.status(name)["drawn"] for name in SETTINGS}
    requests = [
        {"model": ("scales", "rows")[i % 2], "classes": [i % 5, (i + 2) % 5], "count": 1 + i % 3, "seed": 10 * i}
        for i in range(100)
    ]
    for i in range(7, 100, 10):
        requests[i]["count"] = 1000

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=server.address, timeout=PATIENCE, limits=limits) as client:
            return await asyncio.gather(*(client.post("/generate", json=r | {"format": "json"}) for r in requests))

    answers = asyncio.run(ask())
    for request, answer in zip(requests, answers, strict=True):
        if request["count"] == 1000:
            assert answer.status_code == 400
            assert answer.json()["error"] == "A request may ask for at most 8 images; got 1000: ask several times."
            continue
        assert answer.status_code == 200, answer.text
        images = answer.json()["images"]
        wanted = [(request["classes"][i % 2], request["seed"] + i) for i in range(request["count"])]
        assert [(image["class"], image["seed"]) for image in images] == wanted
        for image in images:
            expected = drawn_alone(request["model"], image["class"], image["seed"])
            assert_shows(base64.b64decode(image["png"]), expected)
    for name in SETTINGS:
        asked = sum(r["count"] for r in requests if r["model"] == name and r["count"] < 1000)
        status = server.status(name)
        assert status["drawn"] - before[name] == asked
        assert (status["waiting"], status["drawing"], status["failed"], status["dropped"]) == (0, 0, 0, 0)


def test_png_is_one_picture_or_a_sheet(server):
    one = server.client.post("/generate", json={"model": "rows", "classes": [4], "seed": 5})
    assert one.headers["content-type"] == "image/png"
    assert_shows(one.content, drawn_alone("rows", 4, 5))
    sheet = server.client.post("/generate", json={"model": "rows", "classes": [4, 1], "seed": 5, "count": 3})
    pixels = np.asarray(Image.open(io.BytesIO(sheet.content))).astype(int)
    assert pixels.shape == (18, 3 * 17 + 1)
    for i in range(3):
        part, expected = pixels[1:17, 1 + 17 * i : 17 + 17 * i], drawn_alone("rows", (4, 1)[i % 2], 5 + i)
        assert np.abs(part - expected[0].numpy() * 255).max() < 1.01


def test_settings_of_a_request_count_for_it_alone(server):
    ask = {"model": "rows", "classes": [2], "seed": 1}
    plain, other, again = (server.client.post("/generate", json=ask | more) for more in ({}, {"top_k": 1}, {}))
    assert plain.content == again.content != other.content


@pytest.mark.parametrize(("name", "stages"), [("scales", 3), ("rows", 4)])
def test_a_stream_shows_every_stage_and_ends_with_what_generate_gives(server, name, stages):
    text = server.client.get("/stream", params={"model": name, "class": 3, "seed": 8}).text
    events = [part.split("\n") for part in text.strip().split("\n\n")]
    assert [first for first, _ in events] == ["event: stage"] * (stages - 1) + ["event: done"]
    told = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [each["stage"] for each in told] == list(range(1, stages + 1))
    assert all(a["seconds"] <= b["seconds"] for a, b in zip(told, told[1:]))
    assert_shows(base64.b64decode(told[-1]["png"]), drawn_alone(name, 3, 8))
    assert len({each["png"] for each in told}) == stages


def test_a_client_can_learn_what_may_be_asked(server):
    models = {model["name"]: model for model in server.client.get("/models").json()["models"]}
    assert models["scales"] | {"kind": "VAR", "classes": 5, "most_images": 8} == models["scales"]
    assert models["scales"]["grids"] == [[1, 1], [2, 2], [4, 4]]
    assert models["rows"]["grids"] == [[4, 4]] * 4
    assert models["rows"]["settings"] == {"cfg": 2.0, "temperature": 1.0, "top_k": 12, "top_p": 1.0}
    assert server.client.get("/health").json()["status"] == "ok"


def test_the_page_needs_nothing_from_elsewhere(server):
    answer = server.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "//" not in re.sub(r"(?m)^\s*//.*$", "", answer.text).replace("<!doctype html>", "")
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"(?!data:)", answer.text)


# Saying no --------------------------------------------------------------------------------------------------------

ROWS = {"model": "rows", "classes": [0]}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({**ROWS, "count": 1000}, 400, "at most 8 images; got 1000"),
        ({**ROWS, "count": 0}, 400, "count must be a whole number of at least 1, or none; got 0."),
        ({**ROWS, "count": 2.5}, 400, "count must be a whole number of at least 1, or none; got 2.5."),
        ({**ROWS, "classes": [5]}, 400, "rows draws the classes 0..4; got 5."),
        ({**ROWS, "classes": [-1]}, 400, "classes must be whole numbers of at least 0; got (-1,)."),
        ({**ROWS, "classes": []}, 400, "at least one class, as in [3, 7]; got none."),
        ({**ROWS, "classes": "3"}, 400, "classes must be whole numbers of at least 0; got '3'."),
        ({**ROWS, "seed": -1}, 400, "seed must be a whole number of at least 0; got -1."),
        ({**ROWS, "seed": 2**63}, 400, "seed must be below 2^63"),
        ({**ROWS, "format": "gif"}, 400, "format must be 'png' or 'json'; got 'gif'."),
        ({**ROWS, "cfg": 0.5}, 400, "needs cfg >= 1"),
        ({**ROWS, "temperature": 0}, 400, "temperature > 0"),
        ({"model": "scales", "classes": [0], "temperature": 2.0}, 400, "temperature is not for VAR models"),
        ({**ROWS, "model": "columns"}, 400, "This server has the models scales, rows; got 'columns'."),
        ({**ROWS, "model": ["rows"]}, 400, "This server has the models scales, rows; got ['rows']."),
        ({**ROWS, "size": 4096}, 400, "got 'size'."),
        ({"classes": [0]}, 400, "A request must name model"),
        ({"model": "rows"}, 400, "A request must name classes; got only model."),
        ([], 400, "A request is a JSON object"),
        ("{", 400, "The body of a request must be JSON; got '{'."),
        (b"\xff\xfe", 400, "The body of a request must be JSON"),
        ("[" * 60_000, 400, "The body of a request must be JSON"),
        (" " * 70_000, 413, "may have 65536 bytes; got more."),
    ],
)
def test_what_cannot_be_meant_gets_a_sentence(server, body, status, said):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = server.client.post("/generate", content=content)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert answer.json()["error"].endswith(".") and "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/stream?model=rows&class=9", 400, "rows draws the classes 0..4; got 9."),
        (
            "GET",
            "/stream?model=rows&class=three",
            400,
            "classes must be whole numbers of at least 0; got ('three',).",
        ),
        (
            "GET",
            "/stream?model=rows&class=3&count=2",
            400,
            "at a time can be watched; got a request for 2",
        ),
        ("GET", "/stream?class=3", 400, "A request must name model"),
        ("GET", "/generate", 405, "POST /generate"),
        ("GET", "/elsewhere", 404, "Nothing answers GET '/elsewhere'"),
    ],
)
def test_wrong_addresses_get_a_sentence(server, method, path, status, said):
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_a_full_queue_says_so_and_loses_nothing(own_server, monkeypatch):
    go, answers = hold(own_server, "rows", monkeypatch), {}

    def ask(seed: int) -> None:
        body = {"model": "rows", "classes": [seed % 5], "seed": seed}
        answers[seed] = httpx.post(f"{own_server.address}/generate", json=body, timeout=PATIENCE)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
    threads[0].start()
    own_server.wait_for("rows", drawing=1)
    for thread in threads[1:]:
        thread.start()
    own_server.wait_for("rows", waiting=4)
    client = own_server.client
    refused = client.post("/generate", json=ROWS), client.get("/stream", params={"model": "rows", "class": 0})
    for more in refused:
        assert more.status_code == 503
        assert more.json()["error"].startswith("The queue is full: 4 pictures are waiting, 1 more were asked for")
        assert more.headers["retry-after"] == "1"
    # another model's queue is its own
    assert client.post("/generate", json={"model": "scales", "classes": [0]}).status_code == 200
    go.set()
    for thread in threads:
        thread.join()
    for seed in range(5):
        assert_shows(answers[seed].content, drawn_alone("rows", seed % 5, seed))


def test_who_hangs_up_in_the_middle_of_a_request_does_no_harm(server, caplog):
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b'POST /generate HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{"model"')
    assert server.client.post("/generate", json=ROWS).status_code == 200
    assert [record for record in caplog.records if record.exc_info] == []  # no traceback


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_who_hangs_up_is_not_drawn(own_server, path, monkeypatch):
    go = hold(own_server, "rows", monkeypatch)
    impatient = httpx.Timeout(PATIENCE, read=0.5)
    with pytest.raises(httpx.ReadTimeout):
        if path == "/generate":
            httpx.post(f"{own_server.address}{path}", json={**ROWS, "count": 3}, timeout=impatient)
        else:
            httpx.get(f"{own_server.address}{path}", params={"model": "rows", "class": 0}, timeout=impatient)
    dropped = 3 if path == "/generate" else 1
    own_server.wait_for("rows", dropped=dropped)
    go.set()
    assert_shows(own_server.client.post("/generate", json={**ROWS, "seed": 7}).content, drawn_alone("rows", 0, 7))
    own_server.wait_for("rows", drawn=1, dropped=dropped, waiting=0, drawing=0)


def test_a_request_that_fails_takes_no_other_with_it(own_server, monkeypatch):
    engine = own_server.services["rows"].worker.engine
    step = engine.step

    def spoiled():
        if any(job.seed == 2 and len(job.tokens) > 5 for job in engine.jobs):
            raise RuntimeError("out of ink")
        return step()

    monkeypatch.setattr(engine, "step", spoiled)

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=own_server.address, timeout=PATIENCE) as client:
            bodies = [{"model": "rows", "classes": [seed], "seed": seed} for seed in (1, 2, 3)]
            watched = client.get("/stream", params={"model": "rows", "class": 2, "seed": 2})
            return await asyncio.gather(watched, *(client.post("/generate", json=body) for body in bodies))

    watched, *answers = asyncio.run(ask())
    said = "Class 2 with seed 2 could not be drawn: out of ink."
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[1].json() == {"error": said}
    assert watched.text.endswith(f"event: failed\ndata: {json.dumps({'error': said})}\n\n")
    for answer, seed in ((answers[0], 1), (answers[2], 3)):
        assert_shows(answer.content, drawn_alone("rows", seed, seed))


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The two models, as training leaves them."""
    root = tmp_path_factory.mktemp("served")
    for name, (tokenizer, model) in pairs().items():
        checkpoints.save(tokenizer, root / name / "tokenizer.safetensors")
        path = root / name / f"{type(model).__name__.lower()}.safetensors"
        checkpoints.save(model, path, sampling=SETTINGS[name])
    return root


def refused(capsys, *argv: object) -> str:
    """What ``minivar serve`` says before it ends with 2."""
    assert cli.main(["serve", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("minivar: ") and captured.err.count("\n") == 1
    return captured.err


def test_a_port_in_use_gets_a_sentence_and_who_uses_it_goes_on(server, folders, capsys):
    port = server.address.rsplit(":", 1)[1]
    said = refused(capsys, "--checkpoint", folders / "rows", "--port", port)
    assert f"Cannot listen on port {port} of 127.0.0.1 (Address already in use): expected an address" in said
    assert server.client.post("/generate", json=ROWS).status_code == 200


def test_impossible_options_get_a_sentence(folders, capsys, tmp_path):
    rows = folders / "rows"
    assert "--port must be at most 65535; got 70000." in refused(capsys, "--port", 70_000)
    assert "got rows twice." in refused(capsys, "--checkpoint", rows, rows, "--port", 0)
    assert "must fit into the queue: expected at most 10 images" in refused(capsys, "--queue", 10)
    assert "slots must be a whole number in [1, 4096]; got 0." in refused(capsys, "--slots", 0)
    assert "No checkpoint directory at nowhere" in refused(capsys, "--checkpoint", "nowhere", "--port", 0)
    assert "Cannot listen on port 0 of no.such.host.invalid" in refused(
        capsys, "--checkpoint", rows, "--port", 0, "--host", "no.such.host.invalid"
    )
    tokenizer, _ = pairs()["rows"]
    masked = MaskGIT(MaskGITConfig(depth=1, width=32, heads=2, grid=(4, 4), codebook_size=16, num_classes=5))
    checkpoints.save(tokenizer, tmp_path / "tokenizer.safetensors")
    checkpoints.save(masked, tmp_path / "maskgit.safetensors", sampling={})
    said = refused(capsys, "--checkpoint", tmp_path, "--port", 0)
    assert "holds a MaskGIT; expected VAR or GPT, which are what is served." in said


def address_of(said, process) -> str:
    """Where a server that was just started says that it is."""
    until = time.monotonic() + PATIENCE
    while not (found := re.search(r"http://[\d.]+:\d+", said.read_text())):
        assert process.is_alive() and time.monotonic() < until, said.read_text()
        time.sleep(0.05)
    return found[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_a_server_first_finishes_what_was_asked_for(folders, tmp_path, number):
    said, answers = tmp_path / "said", []
    said.touch()
    argv = ["serve", "--checkpoint", *(str(folders / name) for name in SETTINGS), "--port", "0", "--slots", "1"]
    process = start(cli.main, argv, said=said)
    address = address_of(said, process)

    def ask(seed: int) -> None:
        body = {"model": "rows", "classes": [0, 1], "count": 40, "seed": seed, "format": "json"}
        answers.append(httpx.post(f"{address}/generate", json=body, timeout=PATIENCE))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in (0, 100)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + PATIENCE
    known = 0
    while known < 80:  # both requests are in; hardly any of their pictures is drawn
        status = httpx.get(f"{address}/health", timeout=PATIENCE).json()["models"]["rows"]
        known = status["waiting"] + status["drawing"] + status["drawn"]
        assert time.monotonic() < until
    os.kill(process.pid, number)
    for thread in threads:
        thread.join()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [len(answer.json()["images"]) for answer in answers] == [40, 40]
    assert said.read_text().endswith("Stopped; 80 pictures were drawn.\n")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_listening_holds_the_port_before_anything_is_loaded():
    with listen_on("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=f"Cannot listen on port {port} of 127.0.0.1"):
            listen_on("127.0.0.1", port)
