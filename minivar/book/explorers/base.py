"""What all explorers share: values that can be set, a picture that follows them, and how both are shown.

An explorer's state is plain Python. ``set`` changes it, what follows from it is computed at once, and ``figure``
draws it; none of this needs a front end, and the tests have none. Shown in JupyterLab it is a box of controls above
the picture. The same output carries the picture as PNG, which is what GitHub, an exported page and this book's
committed notebooks show, since nothing there could answer a slider.
"""

import base64
import io
from abc import ABC, abstractmethod

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from traitlets import TraitError

from minivar.book.plots import COLOURS

DPI = 80  # of the picture
CHOSEN = COLOURS[1]  # the colour of what was clicked


class Explorer(ABC):
    """Named controls, what follows from their values, and a picture of it.

    A subclass sets up what ``compute`` needs, and then calls ``super().__init__`` with its controls by name. Its
    ``boards`` are what stands between controls and picture: grids of buttons.
    """

    def __init__(self, controls: dict[str, ipywidgets.ValueWidget]) -> None:
        self.controls, self.screen, self.held = controls, None, False
        for name, control in controls.items():
            control.description = control.description or name
            control.observe(self._moved, names="value")
        self.compute()

    @property
    def values(self) -> dict[str, object]:
        """The value of every control."""
        return {name: control.value for name, control in self.controls.items()}

    def set(self, **values: object) -> "Explorer":
        """Change some values at once, as moving the controls would; returns the explorer, to show or to draw.

        Raises ``ValueError`` for a name that is not among ``controls``, and for a value that its control refuses;
        what was set before it stays as it was.
        """
        if unknown := set(values) - set(self.controls):
            raise ValueError(f"{sorted(unknown)[0]!r} cannot be set: expected {', '.join(self.controls)}.")
        before, self.held = self.values, True
        try:
            for name, value in values.items():
                self._put(name, value)
        except ValueError:
            for name, value in before.items():
                self.controls[name].value = value
            raise
        finally:
            self.held = False
        self.refresh()
        return self

    def _put(self, name: str, value: object) -> None:
        control = self.controls[name]
        try:
            control.value = value
            taken = control.value == value
        except (TraitError, ValueError, TypeError):
            taken = False
        if not taken:  # a slider moves what is out of its range to its end
            raise ValueError(f"{name} cannot be {value!r}: expected {_range_of(control)}.")

    def _moved(self, _change) -> None:
        if not self.held:
            self.refresh()

    def refresh(self) -> None:
        """Compute what follows from the values, and show it, if anybody looks."""
        self.compute()
        if self.screen is not None:
            self.dress()
            self.screen.value = self.png()

    @abstractmethod
    def compute(self) -> None:
        """Everything that follows from the values, as attributes."""

    @abstractmethod
    def figure(self) -> Figure:
        """The picture of it."""

    @abstractmethod
    def describe(self) -> str:
        """The picture in one or two sentences, for those who cannot see it."""

    def boards(self) -> list[ipywidgets.Widget]:
        """Grids of buttons, if there are any."""
        return []

    def dress(self) -> None:  # noqa: B027
        """Colour the buttons of the boards by the state."""

    def png(self) -> bytes:
        """``figure`` as a file."""
        figure, buffer = self.figure(), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        plt.close(figure)
        return buffer.getvalue()

    def box(self) -> ipywidgets.VBox:
        """Controls, boards and picture, for a front end."""
        if self.screen is None:
            as_drawn = ipywidgets.Layout(align_self="flex-start", max_width="100%")  # else it grows with the window
            self.screen = ipywidgets.Image(value=self.png(), format="png", layout=as_drawn)
            wrap = ipywidgets.Layout(flex_flow="row wrap", align_items="flex-end")
            rows = [ipywidgets.Box(list(self.controls.values()), layout=wrap)]
            if boards := self.boards():
                rows.append(ipywidgets.Box(boards, layout=wrap))
            self.whole = ipywidgets.VBox([*rows, self.screen])
            self.dress()
        return self.whole

    def _repr_mimebundle_(self, **_options) -> tuple[dict, dict]:
        """The box for a front end that has widgets, and for all others its picture, with words in its place."""
        widget = self.box()._repr_mimebundle_()
        still = base64.b64encode(self.screen.value).decode()
        data = {**widget, "image/png": still, "text/plain": self.describe()}
        return data, {"image/png": {"alt": self.describe()}}


def _range_of(control: ipywidgets.ValueWidget) -> str:
    """What a control takes, in words."""
    if hasattr(control, "options"):
        options = [option[1] if isinstance(option, tuple) else option for option in control.options]
        return "one of " + ", ".join([*map(repr, options[:12]), *(["..."] if len(options) > 12 else [])])
    if hasattr(control, "min"):
        return f"a number from {control.min:g} to {control.max:g}"
    return "True or False"


def slider(value: float, low: float, high: float, step: float = 1) -> ipywidgets.ValueWidget:
    """A slider of whole numbers, or with a ``step`` below 1 of others."""
    kind = ipywidgets.IntSlider if step == 1 else ipywidgets.FloatSlider
    return kind(value=value, min=low, max=high, step=step, continuous_update=False)


def choice(options, value: object = None) -> ipywidgets.Dropdown:
    """A list to choose from: values, or pairs of a name and a value."""
    options = list(options)
    first = options[0][1] if isinstance(options[0], tuple) else options[0]
    return ipywidgets.Dropdown(options=options, value=first if value is None else value)


def button_grid(grid: tuple[int, int], clicked, side: int, title: str) -> tuple[ipywidgets.VBox, list]:
    """``grid`` buttons, ``side`` pixels each, row by row, below a title; ``clicked(row, column)`` answers them."""
    rows, columns = grid
    shared = ipywidgets.Layout(width=f"{side}px", height=f"{side}px", margin="0", padding="0")
    buttons = [ipywidgets.Button(layout=shared) for _ in range(rows * columns)]
    for i, button in enumerate(buttons):
        button.tooltip = f"row {i // columns + 1}, column {i % columns + 1}"
        button.on_click(lambda _, i=i: clicked(i // columns, i % columns))
    layout = ipywidgets.Layout(grid_template_columns=f"repeat({columns}, {side}px)", grid_gap="1px")
    board = ipywidgets.VBox([ipywidgets.Label(title), ipywidgets.GridBox(buttons, layout=layout)])
    board.layout.margin = "0 16px 8px 0"
    return board, buttons


def class_options(num_classes: int, names=None) -> list[tuple[str, int]]:
    """Names and numbers of classes, for ``choice``."""
    return [(names[i] if names else str(i), i) for i in range(num_classes)]


def check_one_image(image: Tensor, channels: int, size: tuple[int, int]) -> None:
    """Raise ``ValueError`` unless this is one image (1, channels, height, width)."""
    expected = (1, channels, *size)
    if tuple(image.shape) != expected:
        raise ValueError(f"An explorer shows one image of shape {expected}; got {tuple(image.shape)}.")
