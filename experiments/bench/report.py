"""What was measured, as JSON and as a table."""

from experiments.bench.measuring import COPY, OTHERS, PRODUCT, SHAPES, SPREAD, Rounds, Work, Yardsticks
from experiments.bench.old import COMMIT
from experiments.bench.workloads import MINIVAR, OLD, REFERENCE

HEADS = (
    *("workload", "ms", "spread", "GFLOP/s", "products", "of product", "of roofline"),
    *("MB", "x reference", "reference x old"),
)
NOTES = f"""\
ms: median of a call of minivar's; spread: between the quartiles of the ratios to the
reference, round by round; all are timed in turn.
GFLOP/s: of matrix products, convolutions and attention, masked positions included; products: the share of the time
that these take alone, in their order and with their weights. of product: of what a large matrix product reached in
the same rounds. of roofline: the least time for these FLOPs at the product's speed, or for the bytes that they read
and write (weights and activations, each once) at a copy's, over the time that it took.
MB: at the peak of the first call, weights not counted. x reference: how many times faster than the reference;
reference x old: the same of the reference against the package at {COMMIT}.
All sides keep the memory that they free, as minivar's commands do (allocation.keep_memory), where that is possible.
busy: where ratios lie more than {SPREAD:.0%} apart, or other processes took more than {OTHERS:.0%} of the cores."""


def row_of(work: Work, rounds: Rounds, yardsticks: Yardsticks) -> dict:
    """The numbers of a workload, of which minivar does ``work``; those that compare are None where it was busy."""
    took, product, copy = (rounds.median(name) for name in (MINIVAR, PRODUCT, COPY))
    peak, bandwidth = yardsticks.flop / product, yardsticks.bytes / copy
    at_least = max(work.flop / peak, work.bytes / bandwidth)
    alone, both = rounds.busy((PRODUCT, MINIVAR), (COPY, MINIVAR)), rounds.busy((REFERENCE, MINIVAR))
    shapes = rounds.busy((SHAPES, MINIVAR))
    reasons = [alone, both, shapes]
    row = {
        "seconds": {
            name: {
                "median": rounds.median(name),
                "low": min(values),
                "high": max(values),
                "spread": rounds.spread(name),
                "rounds": len(values),
            }
            for name, values in rounds.seconds.items()
        },
        "others": rounds.others,
        "gflop": work.flop / 1e9,
        "gigabytes": work.bytes / 1e9,
        "gflop_per_second": work.flop / took / 1e9,
        "product_gflop_per_second": peak / 1e9,
        "copy_gigabytes_per_second": bandwidth / 1e9,
        "products_alone": None if shapes else rounds.ratio(SHAPES, MINIVAR),
        "share_of_product": None if alone else work.flop / took / peak,
        "share_of_roofline": None if alone else at_least / took,
        "bound": "compute" if at_least == work.flop / peak else "memory",
        "against_reference": None if both else rounds.ratio(REFERENCE, MINIVAR),
        "against_reference_spread": rounds.ratio_spread(REFERENCE, MINIVAR),
        "reference_against_old": None,
    }
    if OLD in rounds.seconds:
        reasons.append(rounds.busy((OLD, REFERENCE)))
        row["reference_against_old"] = None if reasons[-1] else rounds.ratio(OLD, REFERENCE)
    return {**row, "busy": next((reason for reason in reasons if reason), None)}


def table(rows: list[dict]) -> str:
    """One line a workload, columns aligned."""
    lines = [HEADS, *map(cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def cells(row: dict) -> tuple[str, ...]:
    """A line of the table."""
    if "error" in row:
        return (row["name"], *["refused"] * (len(HEADS) - 1))
    mine, peaks = row["seconds"][MINIVAR], row["peak_bytes"]

    def compared(key: str, form: str) -> str:
        return "busy" if row[key] is None else format(row[key], form)

    return (
        row["name"],
        f"{1e3 * mine['median']:.1f}",
        f"{row['against_reference_spread']:.0%}",
        f"{row['gflop_per_second']:.1f}",
        compared("products_alone", ".0%"),
        compared("share_of_product", ".0%"),
        compared("share_of_roofline", ".0%"),
        f"{peaks[MINIVAR] / 1e6:.0f}",
        compared("against_reference", ".2f"),
        compared("reference_against_old", ".2f") if OLD in row["seconds"] else "-",
    )


def remarks(rows: list[dict], old: str | None) -> list[str]:
    """A sentence for each thing that kept a number out of the table; ``old``: why there is no old package."""
    found = [row["error"] for row in rows if "error" in row]
    busy = {row["name"]: row["busy"] for row in rows if row.get("busy")}
    if busy:
        first, names = next(iter(busy)), ", ".join(busy)
        found.append(f"The machine was busy and ratios are left out during {names}; in {first}, {busy[first]}.")
    if old:
        found.append(f"There is no ratio to the old package: {old}.")
    apart = [f"{row['name']}: {row['old_differs']}" for row in rows if row.get("old_differs")]
    if apart:
        found.append(f"The old package computes something else: {'; '.join(apart)}.")
    return found
