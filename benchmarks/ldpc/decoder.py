"""Sum-product decoding of syndromes over the binary symmetric channel, a batch of frames at a time.

Alice sends the syndrome of her word; Bob, who holds his noisy copy, looks for the word of that syndrome (Slepian-Wolf
form). Flooding schedule, float32, messages as [edge, frame] with frames innermost, so that each gather copies whole
rows. A frame is done as soon as its syndrome holds, and a new one takes its place: no frame waits for another, and what
becomes of a frame depends on its own seed and number alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from benchmarks.ldpc.construction import Code

MAX_ITERATIONS = 100
#: Log-likelihood ratio of a bit that both sides know.
CERTAIN = 30.0
#: Largest magnitude of a product of hyperbolic tangents: the last float32 steps below 1, a ratio of about 16.
LARGEST_PRODUCT = 1 - 2.0**-23
#: Iterations between two exchanges of finished frames.
CHUNK = 8


class Graph(NamedTuple):
    """A code as index tables. `variables` is also the number of the dummy variable that fills short checks.

    Attributes:
        variable_of: variable of each edge slot, [largest check degree, checks].
        slots_of: for each degree, the flat edge slots of its variables, [degree, variables of that degree].
    """

    variable_of: Int[Array, "slot check"]
    slots_of: tuple[Int[Array, "slot variable"], ...]


class Frames(NamedTuple):
    """The frames at work, one per column.

    Attributes:
        prior, belief: log-likelihood ratios for 0, with the dummy variable last. message: check to variable.
        word: Alice's bits. syndrome: -1 where a parity is odd, else 1.
        iterations: done so far. finished: the syndrome holds. wrong: it held for another word than Alice's.
    """

    prior: Float[Array, "variable frame"]
    belief: Float[Array, "variable frame"]
    message: Float[Array, "slot check frame"]
    word: Bool[Array, "variable frame"]
    syndrome: Float[Array, "check frame"]
    iterations: Int[Array, " frame"]
    finished: Bool[Array, " frame"]
    wrong: Bool[Array, " frame"]


class Outcome(NamedTuple):
    """Of one frame: its number, iterations, whether a word was found, and whether it is not Alice's."""

    frame: int
    iterations: int
    found: bool
    wrong: bool

    @property
    def failed(self) -> bool:
        return self.wrong or not self.found


def graph(code: Code) -> Graph:
    """Index tables of a code whose variables ascend in degree.

    Raises:
        ValueError: if they do not.
    """
    degrees = code.variable_degrees
    if np.any(np.diff(degrees) < 0):
        raise ValueError("the columns must ascend in degree: sort them, and the word with them")
    order = np.argsort(code.check_index, kind="stable")
    start = np.concatenate([[0], np.cumsum(code.check_degrees)])
    check = code.check_index[order]
    slot = np.arange(len(order)) - start[check]
    table = np.full((code.check_degrees.max(), code.checks), code.variables, np.int32)
    table[slot, check] = code.variable_index[order]
    flat = np.empty(len(order), np.int32)  # slot of each edge, edges ordered by variable
    flat[order] = slot * code.checks + check
    first = np.concatenate([[0], np.cumsum(degrees)])
    slots = []
    for degree in np.unique(degrees):
        members = np.flatnonzero(degrees == degree)
        slots.append(jnp.asarray(flat[first[members][None] + np.arange(degree)[:, None]]))
    return Graph(jnp.asarray(table), tuple(slots))


def _rows(table: Array, index: Array) -> Array:
    return table.at[index].get(mode="promise_in_bounds")


def checks_to_variables(
    to_check: Float[Array, "slot check frame"], syndrome: Float[Array, "check frame"]
) -> Float[Array, "slot check frame"]:
    """Check-node rule 2 atanh(s prod tanh(x/2)) over the other edges; s is -1 for an odd parity."""
    t = [jnp.tanh(x * 0.5) for x in to_check]
    before = [syndrome]
    for x in t[:-1]:
        before.append(before[-1] * x)
    after, out = jnp.ones_like(syndrome), []
    for x, prefix in zip(reversed(t), reversed(before), strict=True):
        product = jnp.clip(prefix * after, -LARGEST_PRODUCT, LARGEST_PRODUCT)
        out.append(jnp.log((1 + product) / (1 - product)))
        after = after * x
    return jnp.stack(out[::-1])


def _believe(g: Graph, prior: Array, message: Array) -> Array:
    flat = message.reshape(-1, message.shape[-1])
    parts, start = [], 0
    for slots in g.slots_of:
        total = prior[start : start + slots.shape[1]]
        for row in slots:
            total = total + _rows(flat, row)
        parts.append(total)
        start += slots.shape[1]
    return jnp.concatenate([*parts, prior[start:]])


def _iterate(g: Graph, frames: Frames) -> Frames:
    """Check the syndrome of the beliefs; one iteration for the frames where it does not hold."""
    gathered = _rows(frames.belief, g.variable_of)
    odd = functools.reduce(jnp.logical_xor, [x < 0 for x in gathered])
    holds = jnp.all(odd == (frames.syndrome < 0), 0)
    differs = jnp.any((frames.belief[:-1] < 0) != frames.word, 0)
    newly = holds & ~frames.finished & (frames.iterations <= MAX_ITERATIONS)
    finished = frames.finished | newly
    message = checks_to_variables(gathered - frames.message, frames.syndrome)
    return frames._replace(
        message=message,
        belief=_believe(g, frames.prior, message),
        iterations=jnp.where(finished, frames.iterations, frames.iterations + 1),
        finished=finished,
        wrong=jnp.where(newly, differs, frames.wrong),
    )


def start(
    g: Graph, prior: Float[Array, "variable frame"], word: Bool[Array, "variable frame"], syndrome: Array
) -> Frames:
    """Frames before their first iteration; `prior` without the dummy variable."""
    count = prior.shape[1]
    prior = jnp.concatenate([prior, jnp.full((1, count), CERTAIN, prior.dtype)])
    return Frames(
        prior,
        prior,
        jnp.zeros((*g.variable_of.shape, count), prior.dtype),
        word,
        syndrome,
        jnp.zeros(count, jnp.int32),
        jnp.zeros(count, bool),
        jnp.zeros(count, bool),
    )


@jax.jit
def run(g: Graph, frames: Frames) -> Frames:
    """Up to `CHUNK` iterations, fewer if all frames end before."""

    def going(carry: tuple[Array, Frames]) -> Array:
        step, now = carry
        return (step < CHUNK) & jnp.any(~now.finished & (now.iterations <= MAX_ITERATIONS))

    return jax.lax.while_loop(going, lambda c: (c[0] + 1, _iterate(g, c[1])), (jnp.int32(0), frames))[1]


def draw(
    g: Graph,
    key: Array,
    numbers: Int[Array, " frame"],
    qber: Float[Array, ""],
    kind: Int[Array, " variable"],
) -> Frames:
    """New frames by their numbers: Alice's random words, Bob's copies with independent flips, and the syndromes.

    `kind`: 0 a sent bit, 1 punctured (Alice's own random bit, unknown to Bob), 2 shortened (known to both).
    """
    bits = jax.vmap(lambda n: jax.random.bits(jax.random.fold_in(key, n), kind.shape, jnp.uint32))(numbers).T
    word = (bits & 1).astype(bool)
    flip = (bits >> 8).astype(jnp.float32) * 2.0**-24 < qber
    evidence = jnp.log1p(-qber) - jnp.log(qber)
    size = jnp.select([kind == 0, kind == 1], [evidence, jnp.float32(0)], jnp.float32(CERTAIN))[:, None]
    seen = word ^ (flip & (kind == 0)[:, None])
    padded = jnp.concatenate([word, jnp.zeros((1, len(numbers)), bool)])
    odd = functools.reduce(jnp.logical_xor, list(_rows(padded, g.variable_of)))
    return start(g, jnp.where(seen, -size, size), word, jnp.where(odd, -1.0, 1.0).astype(jnp.float32))


@jax.jit
def _refill(g: Graph, frames: Frames, key: Array, numbers: Array, qber: Array, kind: Array, fresh: Array) -> Frames:
    new = draw(g, key, numbers, qber, kind)
    return jax.tree.map(lambda a, b: jnp.where(fresh, a, b), new, frames)


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of the sweep: fractions of the variables punctured and shortened by `kind`, at an error rate."""

    qber: float
    kind: np.ndarray
    seed: int


def outcomes(g: Graph, point: Point, batch: int = 32) -> Iterator[Outcome]:
    """Outcomes of frames 0, 1, 2, ... without end, in that order."""
    key = jax.random.key(point.seed)
    qber, kind = jnp.float32(point.qber), jnp.asarray(point.kind, jnp.int32)
    numbers = np.arange(batch)
    following, awaited = batch, 0
    waiting: dict[int, Outcome] = {}
    frames = jax.jit(draw)(g, key, jnp.asarray(numbers), qber, kind)
    while True:
        frames = run(g, frames)
        iterations, finished, wrong = jax.device_get((frames.iterations, frames.finished, frames.wrong))
        ended = finished | (iterations > MAX_ITERATIONS)
        for column in np.flatnonzero(ended):
            number = int(numbers[column])
            waiting[number] = Outcome(
                number, min(int(iterations[column]), MAX_ITERATIONS), bool(finished[column]), bool(wrong[column])
            )
            numbers[column] = following
            following += 1
        while awaited in waiting:
            yield waiting.pop(awaited)
            awaited += 1
        if ended.any():
            frames = _refill(g, frames, key, jnp.asarray(numbers), qber, kind, jnp.asarray(ended))
