"""What an image costs, three ways: derived, counted and timed.

Sampling is a list of sequential steps. In each, some tokens are *queries*, which pass through all layers, and attend
to some *keys*, themselves among them. Everything else follows from this list and the shape of the model: floating
point operations (a multiplication and an addition are two), memory of the cache, bytes moved. Attention is counted
dense, as masked kernels that skip nothing compute it, and so does ``torch.utils.flop_counter``; the tokenizer is not
counted. Explained in chapters 03, 03a and 08 (``notebooks/``); source: VAR, appendix D: attention without a cache.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minivar import presets
from minivar.models import GPT, VAR, GPTConfig, VARConfig
from minivar.models.products import FLOPS
from minivar.sampling import sample_raster, sample_scales
from minivar.scales import ScaleSchedule
from minivar.tokenizer import MultiScaleQuantizer

ORDERS = {
    "raster": "raster, no cache",
    "raster-cached": "raster, KV cache",
    "next-scale": "next-scale, no cache",
    "next-scale-cached": "next-scale, KV cache",
}


@dataclass(frozen=True)
class Step:
    """One forward pass of sampling, for one image."""

    queries: int  # tokens that pass through the layers
    keys: int  # tokens that they attend to
    drawn: int  # tokens that get logits and are sampled


def raster_steps(tokens: int, cache: bool, prefix: int = 1) -> list[Step]:
    """Token i = 1..N is predicted from the condition and i - 1 tokens; without a cache all of them are recomputed."""
    keys = [prefix + i for i in range(tokens)]
    return [Step(length if not cache or i == 0 else 1, length, 1) for i, length in enumerate(keys)]


def next_scale_steps(schedule: ScaleSchedule, cache: bool) -> list[Step]:
    """Scale k is predicted from itself and all coarser ones; without a cache those are recomputed."""
    pairs = zip(schedule.counts, schedule.bounds, strict=True)
    return [Step(count if cache else end, end, count) for count, (_, end) in pairs]


def doubling(n: int) -> ScaleSchedule:
    """1, 2, 4, ..., n: the geometric schedule of the paper's appendix, a = 2. n must be a power of two."""
    if n < 1 or n & (n - 1):
        raise ValueError(f"A doubling schedule ends at a power of two; got {n}.")
    return ScaleSchedule(tuple(2**k for k in range(n.bit_length())))


def every_side(n: int) -> ScaleSchedule:
    """1, 2, 3, ..., n: a schedule that is not geometric."""
    return ScaleSchedule(tuple(range(1, n + 1)))


# (a) In closed form -------------------------------------------------------------------------------------------------


def attention_flops(steps: Sequence[Step], config: GPTConfig | VARConfig) -> int:
    """Scores q k' and their product with v: 2 D each for every pair of query and key, in every layer."""
    return sum(4 * config.width * config.depth * s.queries * s.keys for s in steps)


def model_flops(steps: Sequence[Step], config: GPTConfig | VARConfig) -> int:
    """All matrix products of the transformer over the steps of one image, without guidance."""
    D, V = config.width, config.codebook_size
    queries, drawn = sum(s.queries for s in steps), sum(s.drawn for s in steps)
    if isinstance(config, GPTConfig):
        matrices = 3 if config.style == "llama" else 2
        per_query = 8 * D * D + 2 * matrices * D * config.mlp_width  # q, k, v, output; MLP
        extra = config.caption_tokens * (2 * config.caption_dim * D + 2 * D * D)
    else:
        per_query = 8 * D * D + 4 * D * round(config.mlp_ratio * D)
        extra = 2 * config.code_dim * D * (drawn - steps[0].drawn)  # embeddings of the image so far
    if config.conditioning == "adaln":  # a block's once an image, the head's at every step
        shared = isinstance(config, VARConfig) and config.shared_adaln
        extra += 12 * D * D * (1 if shared else config.depth) + 4 * D * D * len(steps)
    return attention_flops(steps, config) + config.depth * per_query * queries + 2 * D * V * drawn + extra


def cache_bytes(steps: Sequence[Step], config: GPTConfig | VARConfig, bytes_per_number: int = 2) -> int:
    """Keys and values of all tokens in all layers at the end of one image; 2 bytes a number: bfloat16."""
    return 2 * config.depth * config.width * max(s.keys for s in steps) * bytes_per_number


def weight_bytes(config: GPTConfig | VARConfig, bytes_per_number: int = 2) -> int:
    """What a step must read of the model: every matrix of its layers and the head, once."""
    D, raster = config.width, isinstance(config, GPTConfig)
    hidden = config.mlp_width if raster else round(config.mlp_ratio * D)
    own_adaln = config.conditioning == "adaln" and (raster or not config.shared_adaln)
    matrices = 3 if raster and config.style == "llama" else 2
    layer = 4 * D * D + matrices * D * hidden + 6 * D * D * own_adaln
    return (config.depth * layer + D * config.codebook_size) * bytes_per_number


def arithmetic_intensity(
    steps: Sequence[Step], config: GPTConfig | VARConfig, cache: bool, batch: int = 1, bytes_per_number: int = 2
) -> float:
    """FLOPs per byte read from memory, over the whole image: weights once a step, the cache once a step and image.

    Activations are left out, they can stay on the chip. A processor that does 100 FLOPs in the time of reading a byte
    idles wherever this number is below 100.
    """
    read = len(steps) * weight_bytes(config, bytes_per_number)
    if cache:
        per_token = 2 * config.depth * config.width * bytes_per_number
        read += batch * per_token * sum(s.keys for s in steps)
    return batch * model_flops(steps, config) / read


# (b) Counted and (c) timed, on the real models and the real sampling loops ------------------------------------------


def count_flops(function: Callable[[], object]) -> dict[str, int]:
    """FLOPs of what ``function`` runs: of ``attention`` (products of activations), of the ``model`` (without
    convolutions, which the transformers do not have), and of ``all``.
    """  # the fused attention of CPUs is unknown to torch's counter, hence the plain one
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=FLOPS) as counter,
    ):
        function()
    by_name = {str(op): flops for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    attention = by_name.get("aten.bmm", 0) + by_name.get("aten.baddbmm", 0)
    model = sum(flops for op, flops in by_name.items() if "convolution" not in op)
    return {"attention": attention, "model": model, "all": sum(by_name.values())}


def small_gpt(n: int, width: int = 64, depth: int = 2) -> GPT:
    """An untrained LlamaGen-style transformer over n x n tokens."""
    config = GPTConfig(depth, width, 1, grid=(n, n), codebook_size=256, num_classes=10, hidden=8 * width // 3)
    return GPT(config).eval()


def small_var(n: int, width: int = 64, depth: int = 2) -> VAR:
    """An untrained next-scale transformer over the doubling schedule that ends at n x n."""
    shape = {"depth": depth, "width": width, "heads": 1, "num_classes": 10, "codebook_size": 256, "code_dim": 16}
    return VAR(VARConfig(schedule=doubling(n), **shape)).eval()


def sampling(
    order: str, n: int, guided: bool = True
) -> tuple[Callable[[], object], GPTConfig | VARConfig, list[Step]]:
    """Sampling one image in one of the ``ORDERS``: the call, the config and its steps. ``guided``: two sequences.

    Under ``with torch.device("meta")`` the call computes shapes only, which is all that counting needs.
    """
    if order not in ORDERS:
        raise ValueError(f"Unknown order {order!r}: expected one of {', '.join(ORDERS)}.")
    cache = order.endswith("cached")
    label = torch.zeros(1, dtype=torch.int64)
    if order.startswith("raster"):
        gpt = small_gpt(n)
        steps = raster_steps(n * n, cache, gpt.config.prefix)
        strength = 1.5 if guided else 1.0
        return lambda: sample_raster(gpt, None, label, cfg=strength, use_cache=cache), gpt.config, steps
    var = small_var(n)
    quantizer = MultiScaleQuantizer(var.schedule, var.config.codebook_size, var.config.code_dim)
    steps = next_scale_steps(var.schedule, cache)
    strength = 1.5 if guided else 0.0
    return lambda: list(sample_scales(var, quantizer, label, cfg=strength, use_cache=cache)), var.config, steps


def time_call(
    function: Callable[[], object], at_least: float = 0.2, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call by a ``clock``: the fastest of several, which together take ``at_least`` seconds.

    A short call is made three times at least, since the first one pays for what the others find ready.
    """
    fastest, spent, calls = math.inf, 0.0, 0
    while spent < at_least or (calls < 3 and spent < 2.0):
        started = clock()
        function()
        taken = clock() - started
        fastest, spent, calls = min(fastest, taken), spent + taken, calls + 1
    return fastest


def attention_alone(steps: Sequence[Step], width: int = 64) -> Callable[[], None]:
    """Only the attention of the steps: one layer, one head, two sequences as in guided sampling."""
    longest = max(s.keys for s in steps)
    q_BHLE, k_BHLE = torch.randn(2, 2, 1, longest, width).unbind(0)

    def run() -> None:
        for step in steps:
            keys_BHlE = k_BHLE[:, :, : step.keys]
            F.scaled_dot_product_attention(q_BHLE[:, :, : step.queries], keys_BHlE, keys_BHlE)

    return run


# Exponents, and everything together ---------------------------------------------------------------------------------


def fit_exponent(sides: Sequence[int], costs: Sequence[float]) -> dict[str, float]:
    """log cost = exponent * log n + constant by least squares: ``exponent``, its ``error`` (standard), ``last``.

    ``last`` is the slope between the two largest n: where it differs from ``exponent``, the power law is not reached
    yet. Raises ``ValueError`` unless there are three or more different positive n.
    """
    if len(set(sides)) < 3 or len(sides) != len(costs) or min(*sides, *costs) <= 0:
        raise ValueError(
            f"Fitting an exponent needs three or more different n and a positive cost of each; got n {list(sides)} "
            f"and {len(costs)} costs."
        )
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sides, costs))
    spread = (x - x.mean()).square().sum()
    exponent = ((x - x.mean()) * (y - y.mean())).sum() / spread
    residual = y - y.mean() - exponent * (x - x.mean())
    error = (residual.square().sum() / (len(x) - 2) / spread).sqrt()
    order = x.argsort()
    last = (y[order[-1]] - y[order[-2]]) / (x[order[-1]] - x[order[-2]])
    return {"exponent": exponent.item(), "error": error.item(), "last": last.item()}


def measure(order: str, n: int, count: bool = True, timing: bool = True) -> dict:
    """One row: cost of sampling one n x n image with a small model, per sequence, in closed form, counted, timed."""
    call, config, steps = sampling(order, n)
    cache = order.endswith("cached")
    closed = {"attention": attention_flops(steps, config), "model": model_flops(steps, config)}
    row = {
        "order": order,
        "n": n,
        "steps": len(steps),
        "tokens": sum(s.drawn for s in steps),
        "closed": closed,
        "cache_bytes": cache_bytes(steps, config) if cache else 0,
        "intensity": arithmetic_intensity(steps, config, cache),
    }
    if count:
        with torch.device("meta"):
            row["counted"] = count_flops(sampling(order, n, guided=False)[0])
    if timing:
        row["seconds"] = {"attention": time_call(attention_alone(steps)), "model": time_call(call)}
    return row


def closed_exponents(sides: Sequence[int]) -> dict[str, dict[str, float]]:
    """Exponents of attention alone in closed form, for n as large as one likes, with a schedule of every side too."""
    lists = {
        "raster": lambda n: raster_steps(n * n, False),
        "raster-cached": lambda n: raster_steps(n * n, True),
        "next-scale": lambda n: next_scale_steps(doubling(n), False),
        "next-scale-cached": lambda n: next_scale_steps(doubling(n), True),
        "every-side": lambda n: next_scale_steps(every_side(n), False),
        "every-side-cached": lambda n: next_scale_steps(every_side(n), True),
    }
    return {
        name: fit_exponent(sides, [sum(s.queries * s.keys for s in steps(n)) for n in sides])
        for name, steps in lists.items()
    }


def published(names: Sequence[str] = ("llamagen-l-256", "llamagen-l-384", "var-d16", "var-d36-s")) -> list[dict]:
    """Closed-form rows for presets of published size, with and without a KV cache, per image without guidance."""
    rows = []
    for name in names:
        config = presets.get(name).model
        raster = isinstance(config, GPTConfig)
        for cache in (False, True):
            if raster:
                steps = raster_steps(math.prod(config.grid), cache, config.prefix)
            else:
                steps = next_scale_steps(config.schedule, cache)
            attention, model = attention_flops(steps, config), model_flops(steps, config)
            rows.append(
                {
                    "preset": name,
                    "cache": cache,
                    "steps": len(steps),
                    "tokens": sum(s.drawn for s in steps),
                    "attention": attention,
                    "model": model,
                    "attention_share": attention / model,
                    "cache_bytes": cache_bytes(steps, config) if cache else 0,
                    "intensity": arithmetic_intensity(steps, config, cache),
                }
            )
    return rows


def report(sides: Sequence[int] = (4, 8, 16, 32), timing: bool = True) -> dict:
    """Everything that ``minivar complexity --json`` prints.

    ``rows`` of small models, their ``exponents`` with errors, attention's exponents at ``large`` n in closed form,
    and ``published`` models. FLOPs are those of one sequence; seconds those of one image with guidance, two
    sequences. The default takes 75 seconds on two idle cores.
    """
    fit_exponent(sides, [doubling(n).num_tokens for n in sides])  # refuses bad sides before anything is measured
    rows = [measure(order, n, timing=timing) for order in ORDERS for n in sides]
    exponents = {}
    for order in ORDERS:
        mine = [row for row in rows if row["order"] == order]
        exponents[order] = {
            how: {what: fit_exponent(sides, [row[how][what] for row in mine]) for what in ("attention", "model")}
            for how in ("closed", "counted", "seconds")
            if how in mine[0]
        }
    large = tuple(2**k for k in range(5, 10))
    at_large = {"sides": large, "exponents": closed_exponents(large)}
    return {"rows": rows, "exponents": exponents, "large": at_large, "published": published()}


def as_text(report: dict) -> str:
    """The report as tables for a terminal."""
    lines = [
        f"{'one n x n image':20} {'n':>3} {'steps':>5} {'attention':>10} {'model':>10} {'counted':>10} {'seconds':>8}"
    ]
    for row in report["rows"]:
        closed, counted = row["closed"], row["counted"]["model"]
        seconds = f"{row['seconds']['model']:8.4f}" if "seconds" in row else f"{'':8}"
        numbers = f"{closed['attention']:10.3g} {closed['model']:10.3g} {counted:10.3g} {seconds}"
        lines.append(f"{ORDERS[row['order']]:20} {row['n']:3} {row['steps']:5} {numbers}")
    lines += [
        "",
        f"{'exponent of n':20} {'':8} {'attention':>22} {'whole model':>22}   (least squares, standard error)",
    ]
    for order, by_how in report["exponents"].items():
        for how, fits in by_how.items():
            cells = [
                f"{fits[what]['exponent']:14.3f} +- {fits[what]['error']:.3f}" for what in ("attention", "model")
            ]
            lines.append(f"{ORDERS[order]:20} {how:8} {cells[0]:>22} {cells[1]:>22}")
    lines += [
        "",
        f"attention alone, in closed form, n = {report['large']['sides'][0]} to {report['large']['sides'][-1]}",
    ]
    for name, fit in report["large"]["exponents"].items():
        lines.append(f"{name:20} {fit['exponent']:9.4f} +- {fit['error']:.4f}")
    heads = f"{'GFLOPs':>9} {'attention':>9} {'MB':>6} {'FLOPs/B':>8}"
    lines += ["", f"{'published':16} {'cache':>5} {'steps':>5} {'tokens':>6} {heads}"]
    for row in report["published"]:
        numbers = f"{row['model'] / 1e9:9.1f} {row['attention_share']:9.1%} {row['cache_bytes'] / 1e6:6.1f}"
        what = f"{row['preset']:16} {'yes' if row['cache'] else 'no':>5} {row['steps']:5} {row['tokens']:6}"
        lines.append(f"{what} {numbers} {row['intensity']:8.1f}")
    return "\n".join(lines)
