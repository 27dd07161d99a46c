"""A machine whose times are known: what a way to time is tried on."""

from collections.abc import Callable
from functools import partial


class PretendMachine:
    """A clock that nothing moves but work. Each call costs what it is said to, ``busy(now)`` times as much, and
    ``first`` seconds more when it is made for the first time.
    """

    def __init__(self, costs: dict[str, float], busy: Callable[[float], float] = lambda now: 1.0, first: float = 0.0):
        self.now, self.costs, self.busy, self.first, self.made = 100.0, costs, busy, first, set()

    def clock(self) -> float:
        return self.now

    def work(self, name: str) -> None:
        """One call of this name."""
        self.now += self.costs[name] * self.busy(self.now) + (0 if name in self.made else self.first)
        self.made.add(name)

    @property
    def calls(self) -> dict[str, Callable[[], None]]:
        """By name, to be timed with ``clock``."""
        return {name: partial(self.work, name) for name in self.costs}
