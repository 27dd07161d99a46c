"""Checks of the exercises of chapter 02."""

from collections.abc import Callable

import torch
from torch import Tensor

from minivar.book.exercises.verdict import verdict
from minivar.models import GPT, GPTConfig
from minivar.models.gpt import rotary_table


def check_log_likelihood(fn: Callable[[GPT, Tensor, Tensor], Tensor]) -> bool:
    """``fn(gpt, classes, tokens)``: classes (B,), tokens (B, N) -> log p(tokens | class) in nats, (B,)."""

    def case(grid: tuple[int, int], batch: int, style: str, sharp: float):
        draw = torch.Generator().manual_seed(batch)
        gpt = GPT(GPTConfig(depth=1, width=16, heads=2, grid=grid, codebook_size=5, num_classes=3, style=style))
        for parameter in gpt.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw) * sharp
        gpt = gpt.eval()
        classes = torch.randint(3, (batch,), generator=draw)
        tokens = torch.randint(5, (batch, grid[0] * grid[1]), generator=draw)
        expected = torch.zeros(batch)
        with torch.no_grad():
            for i in range(tokens.shape[1]):  # one factor of the chain rule a pass, as sampling computes them
                logits_BV = gpt(classes, tokens[:, :i])[:, -1]
                expected += logits_BV.log_softmax(-1)[torch.arange(batch), tokens[:, i]]

        def call():
            got = fn(gpt, classes.clone(), tokens.clone())
            return got.detach() if isinstance(got, Tensor) else got

        return call, expected

    return verdict(
        "log-likelihood",
        (
            ("one image of a single token, which depends on the class alone", *case((1, 1), 1, "llama", 0.3)),
            ("an untrained model of equal logits: -N ln V", *case((3, 3), 2, "llama", 0.0)),
            ("four images of 2 x 3 tokens (is every factor counted, the first and the last?)",
             *case((2, 3), 4, "llama", 0.3)),
            ("the GPT-2 style", *case((3, 2), 3, "gpt2", 0.3)),
        ),
    )  # fmt: skip


def check_rotary(fn: Callable[[Tensor, int, int, float], Tensor]) -> bool:
    """``fn(x, row, column, base)``: turn a query or key (E,), its first half by row, its second by column."""

    def case(width: int, row: int, column: int, base: float):
        x = torch.randn(width, generator=torch.Generator().manual_seed(width + row))
        config = GPTConfig(width=width, heads=1, rope_base=base)
        cos, sin = rotary_table(config, (8, 8))[1:].view(8, 8, -1, 2)[row, column].double().unbind(-1)
        pairs = torch.view_as_complex(x.double().view(-1, 2))
        expected = torch.view_as_real(pairs * torch.complex(cos, sin)).flatten().float()
        return lambda: fn(x.clone(), row, column, base), expected

    return verdict(
        "rotary embedding",
        (
            ("the first cell, which leaves x as it is", *case(8, 0, 0, 10000.0)),
            ("E = 4, one pair for the row and one for the column, at row 1, column 0", *case(4, 1, 0, 10000.0)),
            ("the same at row 0, column 1 (does the second half turn with the column?)", *case(4, 0, 1, 10000.0)),
            ("E = 16 at row 2, column 5 (do later pairs turn more slowly?)", *case(16, 2, 5, 10000.0)),
            ("E = 32 at row 7, column 3 with base 100", *case(32, 7, 3, 100.0)),
        ),
    )


def check_nucleus(fn: Callable[[list[float], float], list[int]]) -> bool:
    """``fn(probs, p)``: indices, ascending, of the fewest likeliest codes whose probability exceeds p together."""
    cases = (
        ("four codes in order, p = 0.6", [0.5, 0.3, 0.15, 0.05], 0.6, [0, 1]),
        ("p below the best code (one code always stays)", [0.2, 0.7, 0.1], 0.1, [1]),
        ("codes out of order", [0.05, 0.15, 0.5, 0.3], 0.9, [1, 2, 3]),
        ("a sum that only just fails to exceed p", [0.5, 0.25, 0.1875, 0.0625], 0.75, [0, 1, 2]),
        ("a flat distribution keeps many", [0.125] * 8, 0.7, None),
        ("p = 1 keeps everything", [0.6, 0.3, 0.1], 1.0, [0, 1, 2]),
    )

    def call(probs: list[float], p: float, expected):
        kept = fn(list(probs), p)
        return (kept if kept is None else len(kept)) if expected is None else kept

    return verdict(
        "nucleus",
        [(name, lambda q=q, p=p, e=e: call(q, p, e), 6 if e is None else e) for name, q, p, e in cases],
    )
