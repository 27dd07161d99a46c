"""Debian's Chromium, driven by its debugging protocol, for the tests of pages; they skip where there is none."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websocket import create_connection  # a client, which comes with JupyterLab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Seconds after which a test gives up: nothing here takes more than a few, but other machines may be busy.
PATIENCE = 300
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Tab:
    """One page in a browser: what it shows, what it complained about, and what can be done to it."""

    def __init__(self, address: str) -> None:
        self.socket, self.asked = create_connection(address, timeout=PATIENCE, suppress_origin=True), 0
        self.events: list[dict] = []  # what came unasked, for methods that were enabled

    def ask(self, method: str, **parameters: object) -> dict:
        """One command of the debugging protocol, and its answer."""
        self.asked += 1
        self.socket.send(json.dumps({"id": self.asked, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.asked:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def value(self, script: str) -> object:
        """Of an expression in the page; a promise is waited for."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Until the expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.value(script):
            assert time.monotonic() < until, f"{script} is not true of {self.value('document.body.innerText')}"
            time.sleep(0.05)

    def texts(self, selector: str) -> list[str]:
        """What the elements say."""
        return self.value(f"[...document.querySelectorAll({selector!r})].map(element => element.textContent)")

    def pixels(self, selector: str) -> np.ndarray:
        """What an image element shows, its red, (height, width) in 0..255."""
        script = f"""(async () => {{
            const image = document.querySelector({selector!r});
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const {{ data }} = context.getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, Array.from(data).filter((_, i) => i % 4 == 0)];
        }})()"""
        height, width, values = self.value(script)
        return np.array(values).reshape(height, width)


@contextmanager
def opened(address: str, profile: Path, size: str = "1100,900") -> Iterator[Tab]:
    """A tab at ``address``, in a browser of its own, whose files go to ``profile``, an empty folder."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0")
    command = [CHROMIUM, *options, f"--window-size={size}", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until, found = time.monotonic() + PATIENCE, profile / "DevToolsActivePort"
        while not (found.is_file() and len(found.read_text().split()) == 2):
            assert process.poll() is None and time.monotonic() < until, "Chromium did not start"
            time.sleep(0.1)
        port, path = found.read_text().split()
        browser = Tab(f"ws://127.0.0.1:{port}{path}")
        target = browser.ask("Target.createTarget", url=address)["targetId"]
        yield Tab(f"ws://127.0.0.1:{port}/devtools/page/{target}")
        browser.ask("Browser.close")
        process.wait(30)
    finally:
        process.kill()
        process.wait()
