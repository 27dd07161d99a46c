"""Explorers: what is understood by moving it. Each is plain Python, controls in JupyterLab, a figure elsewhere."""

from minivar.book.explorers.attention import Attention
from minivar.book.explorers.base import Explorer
from minivar.book.explorers.cost import Cost
from minivar.book.explorers.editing import Editing
from minivar.book.explorers.pyramid import Pyramid
from minivar.book.explorers.sampling import Sampling

__all__ = ["Attention", "Cost", "Editing", "Explorer", "Pyramid", "Sampling"]
