"""Two explorers in JupyterLab in Chromium: what is clicked there reaches Python, and what Python draws is shown."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from browser import PATIENCE, needs_chromium, opened
from conftest import tokenizer_config, var_config, wake
from PIL import Image

from minivar.book import explorers
from minivar.models import VAR
from minivar.tokenizer import VQVAE

pytestmark = [needs_chromium, pytest.mark.slow]
HERE = Path(__file__).parent
START = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
from test_explorers_page import editing, pyramid
"""
ORANGE = "rgb(230, 159, 0)"


def a_picture():
    import torch

    return torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def pyramid() -> explorers.Pyramid:
    return explorers.Pyramid(wake(VQVAE(tokenizer_config())), a_picture())


def editing() -> explorers.Editing:
    return explorers.Editing(wake(VAR(var_config())), wake(VQVAE(tokenizer_config())), a_picture(), samples=1, side=4)


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """JupyterLab with a notebook that shows both, run."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [START + "pyramid()", "editing()"]
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    notebook = {"cells": [{**code, "source": source} for source in cells], "nbformat": 4, "nbformat_minor": 4}
    notebook["metadata"] = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "both.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    options += ["--LabApp.extension_manager=readonly", "--ServerApp.disable_check_xsrf=True"]
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / name) for name in ("SETTINGS", "WORKSPACES")}
    environment = {**os.environ, **own, "JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment, cwd=folder
        )
    try:
        until = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port}/lab/tree/both.ipynb"
        with opened(address, tmp_path_factory.mktemp("chromium")) as found:
            found.wait_for("document.querySelectorAll('.jp-Notebook .jp-CodeCell').length == 2")
            found.wait_for("window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'")
            found.value("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
            found.wait_for("document.querySelectorAll('.jp-OutputArea-output img').length == 2")
            yield found
    finally:
        server.terminate()
        server.wait(30)


def cell(number: int, rest: str) -> str:
    return f".jp-CodeCell:nth-of-type({number}) .jp-OutputArea {rest}"


def shown(tab, number: int) -> np.ndarray:
    return tab.pixels(cell(number, "img"))


def drawn(explorer: explorers.Explorer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(explorer.png())).convert("RGB"))[..., 0].astype(int)


def click(tab, number: int, label: int) -> None:
    """The button with this number among those of a cell, and wait for the next picture."""
    before = tab.value(f"document.querySelector({cell(number, 'img')!r}).src")
    tab.value(f"document.querySelectorAll({cell(number, 'button.jupyter-button')!r})[{label}].click()")
    tab.wait_for(f"document.querySelector({cell(number, 'img')!r}).src != {before!r}")


def colour(tab, number: int, label: int) -> str:
    button = f"document.querySelectorAll({cell(number, 'button.jupyter-button')!r})[{label}]"
    return tab.value(f"getComputedStyle({button}).backgroundColor")


def test_a_token_is_clicked_and_its_button_and_the_figure_say_so(tab):
    here = pyramid()
    assert np.abs(shown(tab, 1) - drawn(here)).max() <= 1
    texts = tab.texts(cell(1, "button.jupyter-button"))
    assert texts[:21] == [str(int(token)) for tokens in here.tokens.values() for token in tokens[0]]
    click(tab, 1, 5 + 6)  # of 1 + 4 + 16: the second row and third column of scale 3
    assert colour(tab, 1, 5 + 6) == ORANGE
    here.click("scale 3", 2, 3)
    assert np.abs(shown(tab, 1) - drawn(here)).max() <= 1


def test_a_mask_is_drawn_and_what_it_hides_is_drawn_anew(tab):
    here = editing()
    assert np.abs(shown(tab, 2) - drawn(here)).max() <= 1 and colour(tab, 2, 5) != ORANGE
    for row, column in ((2, 2), (2, 3), (3, 3)):
        click(tab, 2, (row - 1) * 4 + column - 1)
        here.toggle(row, column)
    assert [colour(tab, 2, i) == ORANGE for i in range(16)] == here.hole.flatten().tolist()
    assert np.abs(shown(tab, 2) - drawn(here)).max() <= 1


def test_the_static_figure_is_not_shown_beside_the_controls(tab):
    assert tab.value("document.querySelectorAll('.jp-RenderedImage').length") == 0
    assert tab.value("document.querySelectorAll('.jp-OutputArea-output .widget-slider').length") == 3 + 4
