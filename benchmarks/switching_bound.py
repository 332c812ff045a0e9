"""An upper bound on what any controller of `node_switching` can serve in an episode whose demand and drift it knows.

Port time gets a price: l_i(t) for transmitter i in minute t, u_j(t) for receiver j, all at least 0. Each pair by itself
then plans its visits, knowing everything, to minimise its unserved demand plus the price of the port time that it
takes, by dynamic programming. The bound is

    all demand - sum over pairs of (least unserved demand + price paid) + sum over ports and minutes of the price.

*Every policy stays below it, whatever the prices.* Take any episode of any policy. For each pair it is a sequence of
visits: from minute s the pair holds its ports, relocks, collects light in whole blocks, each of which puts its key into
the store when complete, and at some minute it is released, perhaps in mid-block. Without the incomplete rest the
visit yields the same key and takes less time, so the pair's unserved demand plus its price is not below what the
pair's own program finds (that program may start a visit in any minute and end it after any block). Add this up over
pairs. In no minute do two pairs hold one port, so the prices paid add up to no more than the last sum, and the unserved
demand is at least the sum of the pairs' optima less that: the served demand is at most the bound. A receiver must be
seen free before it is taken, so a visit that does not begin at the start also occupies the minute before it at its
receiver, and those stretches are disjoint, too; none of those held at the start is taken in the first minute.

What is relaxed is the coupling alone: ports are shared on (weighted) average over each pair's best plans. Relocks,
whole blocks, the key of each very block under its drift, capacities and spilling are exact within a pair. That is what
the fluid program and shares of time forget.

The store is followed by the moment at which it would run dry (which stays put while demand drains it, and jumps when a
block arrives), on a grid; jumps are rounded up, which raises the bound by less than a grid step of demand a block.
Prices are improved by a subgradient method, which never makes the bound wrong, only tighter.
"""

from __future__ import annotations

import dataclasses

import numpy as np

#: Minutes that share a price.
PRICE_MIN = 5


@dataclasses.dataclass(frozen=True)
class Story:
    """All that happens in an episode whatever the agents do; key in units of `switching.UNIT_BITS`.

    Attributes:
        demand: `(steps, n, m)`, of each minute.
        lump: `(steps + 1, n, m)`; row t is the key of a block whose light ends with minute t - 1 (0 where there is no
            such block), there for the demand of minute t.
        stock, capacity: `(n, m)`. relock, block: minutes.
        progress: `(n,)`, minutes of light in the block that transmitter i < m has open with receiver i at the start.
        first_lump: `(n,)`, key of that block, if it is completed at once.
        unit: mean demand of a minute: what returns are measured in.
    """

    demand: np.ndarray
    lump: np.ndarray
    stock: np.ndarray
    capacity: np.ndarray
    relock: int
    block: int
    progress: np.ndarray
    first_lump: np.ndarray
    unit: float

    @property
    def steps(self) -> int:
        return len(self.demand)

    @property
    def offered(self) -> float:
        """All demand, in units of return."""
        return float(self.demand.sum()) / self.unit


@dataclasses.dataclass(frozen=True)
class Prices:
    """Of port time, in units of key a minute, at least 0: `(steps, n)` and `(steps, m)`."""

    transmitter: np.ndarray
    receiver: np.ndarray


class Planner:
    """The pairs' programs on one episode. A store's state at minute t is the grid point at which it would be dry.

    Args:
        grid: points a minute. round_up: True for a bound; False rounds to the nearest point, to find prices.
    """

    def __init__(self, story: Story, grid: int = 1, round_up: bool = True) -> None:
        self.story, self.grid = story, grid
        steps, n, m = story.demand.shape
        self._pairs = n * m
        demand = story.demand.reshape(steps, -1).T.astype(float)
        ticks = np.arange(steps * grid + 1) / grid
        total = np.concatenate([np.zeros((self._pairs, 1)), np.cumsum(demand, axis=1)], axis=1)
        self._used = np.stack([np.interp(ticks, np.arange(steps + 1), row) for row in total])  # demand until each tick
        lump, capacity = story.lump.reshape(steps + 1, -1).T, story.capacity.reshape(-1)
        dry_if_full = np.stack([self._tick(p, total[p] + capacity[p], round_up) for p in range(self._pairs)])
        self._width = int(np.max(dry_if_full - np.arange(steps + 1) * grid)) + 1
        # ticks from now to dryness after a block arrives, by those before
        self._jump = np.zeros((steps + 1, self._pairs, self._width), np.int16 if steps * grid < 2**15 else np.int32)
        for p in range(self._pairs):
            for t in range(1, steps + 1):
                now = t * grid
                before = self._used[p, np.minimum(now + np.arange(self._width), steps * grid)]
                after = np.minimum(before + lump[p, t], total[p, t] + capacity[p])
                self._jump[t, p] = np.clip(self._tick(p, after, round_up) - now, 0, self._width - 1)
        stock = np.minimum(story.stock, story.capacity).reshape(-1)
        self._start = np.array([self._tick(p, stock[p : p + 1], True)[0] for p in range(self._pairs)])
        self._lost = np.pad(self._used, ((0, 0), (0, self._width)), mode="edge").astype(np.float32)
        self._flat = (np.arange(self._pairs) * self._width)[:, None]
        self._first = self._opening()
        self._taken_at_first = np.tile(np.arange(m) < n, n)  # these receivers are held at the start

    def _tick(self, pair: int, amount: np.ndarray, up: bool) -> np.ndarray:
        """The tick until which `amount` of demand lasts."""
        used = self._used[pair]
        after = np.searchsorted(used, amount - 1e-6, side="left")
        after = np.minimum(after, len(used) - 1)
        if up:
            return after
        before = np.maximum(after - 1, 0)
        return np.where(amount - used[before] < used[after] - amount, before, after)

    def _opening(self) -> dict[int, tuple[int, int]]:
        """Pairs that have a block open at the start: (minute at which it is complete, ticks to dryness then)."""
        story, found = self.story, {}
        n, m = story.stock.shape
        for i in range(min(n, m)):
            pair, ready = i * m + i, story.block - int(story.progress[i])
            if ready > story.steps:
                continue
            now = ready * self.grid
            before = self._used[pair, max(now, self._start[pair])]
            full = self._used[pair, now] + story.capacity[i, i]
            dry = self._tick(pair, np.array([min(before + story.first_lump[i], full)]), True)[0]
            found[pair] = ready, max(int(dry) - now, 0)
        return found

    def evaluate(self, prices: Prices) -> tuple[float, np.ndarray, np.ndarray]:
        """(bound in units of key, minutes that each transmitter is taken `(steps, n)`, and each receiver)."""
        story, grid, width = self.story, self.grid, self._width
        steps, n, m = story.demand.shape
        relock, block = story.relock, story.block
        both = (prices.transmitter[:, :, None] + prices.receiver[:, None, :]).reshape(steps, -1)
        paid = np.concatenate([np.zeros((1, n * m)), np.cumsum(both, axis=0)]).astype(np.float32)
        gap = np.tile(np.concatenate([np.zeros((1, m)), prices.receiver[:-1]]), (1, n)).astype(np.float32)
        lost = self._lost
        idle = np.zeros((self._pairs, width), np.float32)  # least loss from minute t on, unpaired
        arrive: list[np.ndarray | None] = [None] * (steps + 1)  # the same when a block ends now, before its key
        starts = np.zeros((steps, self._pairs, width), bool)
        goes_on = np.zeros((steps, self._pairs, width), bool)
        arrive[steps] = idle
        opened: dict[int, np.ndarray] = {}

        def through(t: int, end: int, then: np.ndarray) -> np.ndarray:
            """Loss from t on if nothing comes in until `end` and then it goes on like `then`."""
            span = min((end - t) * grid, width)
            out = np.empty_like(then)
            low, high = t * grid, end * grid
            out[:, :span] = then[:, :1] + (lost[:, high : high + 1] - lost[:, low : low + span])
            out[:, span:] = then[:, : width - span]
            return out

        for t in range(steps - 1, -1, -1):
            idle = ready = through(t, t + 1, idle)
            visit_end, block_end = t + relock + block, t + block
            if visit_end <= steps:
                cost = paid[visit_end] - paid[t] + gap[t]
                if t == 0:
                    cost = np.where(self._taken_at_first, np.inf, cost)
                visit = through(t, visit_end, arrive[visit_end]) + cost[:, None]  # type: ignore[arg-type]
                np.less(visit, idle, out=starts[t])
                idle = np.minimum(idle, visit)
            if block_end <= steps:
                stay = through(t, block_end, arrive[block_end]) + (paid[block_end] - paid[t])[:, None]  # type: ignore[arg-type]
                np.less(stay, ready, out=goes_on[t])
                ready = np.minimum(ready, stay)
            arrive[t] = np.take(ready, self._flat + self._jump[t])
            for pair, (when, dry) in self._first.items():
                if when == t:
                    opened[pair] = ready[pair, min(dry, width - 1)]
            if t + relock + block + 1 <= steps:
                arrive[t + relock + block + 1] = None
        held = np.zeros((steps, self._pairs), bool)
        waits = np.zeros((steps, self._pairs), bool)
        least = 0.0
        for pair in range(self._pairs):
            dry, now, locked = int(self._start[pair]), 0, False
            best = float(idle[pair, min(dry, width - 1)])
            if pair in opened:
                when, after = self._first[pair]
                upto = max(dry, 0)
                kept = paid[when, pair] + max(float(lost[pair, when * grid] - lost[pair, upto]), 0.0)
                kept += float(opened[pair])
                if kept < best:
                    best, now, locked, dry = kept, when, True, when * grid + after
                    held[:when, pair] = True
            least += best
            while now < steps:
                dry = max(dry, now * grid)
                k = min(dry - now * grid, width - 1)
                if locked and goes_on[now, pair, k]:
                    end = now + block
                elif not locked and starts[now, pair, k]:
                    end = now + relock + block
                    if now:
                        waits[now - 1, pair] = True
                else:
                    now, locked = now + 1, False
                    continue
                held[now:end, pair] = True
                now, locked = end, True
                k = min(max(dry - now * grid, 0), width - 1)
                dry = now * grid + int(self._jump[now, pair, k])
        taken = held.reshape(steps, n, m)
        by_receiver = taken.sum(axis=1) + waits.reshape(steps, n, m).sum(axis=1)
        total = float(story.demand.sum()) - least + float(prices.transmitter.sum() + prices.receiver.sum())
        return total, taken.sum(axis=2), by_receiver


def _binned(x: np.ndarray, minutes: int) -> np.ndarray:
    """Means over so many minutes, `(bins, ports)`."""
    edges = np.arange(0, len(x), minutes)
    return np.add.reduceat(x, edges, axis=0) / np.diff(np.append(edges, len(x)))[:, None]


def find_prices(
    story: Story, iterations: int = 100, grid: int = 1, minutes: int = PRICE_MIN, trace: list[float] | None = None
) -> Prices:
    """Prices by Adam on the subgradient of the bound (port time there is less port time taken).

    Args:
        minutes: share a price. trace: takes the bound of each step, but for its rounding.
    """
    planner = Planner(story, grid, round_up=False)
    steps, n, m = story.demand.shape
    bins = -(-steps // minutes)
    scale = float(story.demand.sum()) / (steps * (n + m))  # a price at which all demand would go into port time
    x = np.full((bins, n + m), 0.5 * scale)
    first, second = np.zeros_like(x), np.zeros_like(x)
    best, found = np.inf, None
    for k in range(iterations):
        each = np.repeat(x, minutes, axis=0)[:steps]
        prices = Prices(each[:, :n], each[:, n:])
        value, by_tx, by_rx = planner.evaluate(prices)
        if trace is not None:
            trace.append(value / story.unit)
        if value < best:
            best, found = value, prices
        slope = 1.0 - _binned(np.concatenate([by_tx, by_rx], axis=1).astype(float), minutes)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        ahead = first / (1 - 0.9 ** (k + 1)) / (np.sqrt(second / (1 - 0.99 ** (k + 1))) + 1e-3)
        rate = 0.15 * scale * (1 - k / iterations) + 0.005 * scale
        x = np.maximum(x - rate * ahead, 0)
    assert found is not None
    return found


def bound(story: Story, prices: Prices, grid: int = 2) -> float:
    """The bound at these prices, in units of return."""
    return float(Planner(story, grid).evaluate(prices)[0]) / story.unit
