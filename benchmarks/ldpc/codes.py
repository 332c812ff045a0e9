"""The codes of the sweep: mother codes of seven rates, at two block lengths, and the ways to other rates.

Mother codes are built once from their seed and kept in `.cache/ldpc`. A rate between two mothers is reached by
puncturing the lower one or by shortening the upper one: R = (R0 - s) / (1 - p - s), Elkouss, Martinez-Mateo, Lancho,
Martin, ITW 2010, arXiv:1006.2660.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.ldpc import construction, density_evolution
from benchmarks.ldpc.construction import Code

CACHE = Path(".cache/ldpc")
#: Built codes that travel with the sources, so that a point can be run again at once.
SHIPPED = Path(__file__).with_name("built")
#: To be raised when `construction` comes to build other codes from the same seed.
RECIPE = 1
PEG_VARIABLES = 10_000
LIFT, BLOCK_COLUMNS = 400, 160
BLOCKS = (PEG_VARIABLES, LIFT * BLOCK_COLUMNS)
SEED = 20_240
MOTHER_RATES = density_evolution.RATES
#: Rates between the mothers.
TARGET_RATES = (0.55, 0.65, 0.725, 0.775, 0.825, 0.875)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A mother code with some of its bits punctured or shortened.

    Attributes:
        block: variables of the mother code. punctured, shortened: bits, not fractions.
    """

    block: int
    mother_rate: float
    punctured: int = 0
    shortened: int = 0

    @property
    def rate(self) -> float:
        """Rate of what is left, (R0 - s) / (1 - p - s)."""
        return (self.mother_rate * self.block - self.shortened) / (self.block - self.punctured - self.shortened)

    @property
    def name(self) -> str:
        return f"{self.block}/{self.mother_rate:g}/p{self.punctured}/s{self.shortened}"


def settings(block: int) -> Iterator[Setting]:
    """All settings of one block length: mothers first, then each rate between them both ways."""
    for rate in MOTHER_RATES:
        yield Setting(block, rate)
    for target in TARGET_RATES:
        below = max(r for r in MOTHER_RATES if r < target)
        above = min(r for r in MOTHER_RATES if r > target)
        yield Setting(block, below, punctured=round(block * (1 - below / target)))
        yield Setting(block, above, shortened=round(block * (above - target) / (1 - target)))


def recipe(block: int, rate: float) -> str:
    """What a mother code is built from, hashed: the same recipe builds the same code."""
    facts = [RECIPE, block, rate, SEED, LIFT, BLOCK_COLUMNS, density_evolution.load()[rate]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _file(block: int, rate: float) -> str:
    return f"{block}-{rate:g}-{recipe(block, rate)}.npz"


def save(code: Code, file: Path) -> None:
    """Keep a code, compactly: the checks of each variable in turn, and how many each has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint16 if code.checks < 1 << 16 else np.uint32
    checks, degrees = code.check_index.astype(dtype), code.variable_degrees.astype(np.uint8)
    np.savez_compressed(file, check_index=checks, degrees=degrees, checks=code.checks, lift=code.lift)


def read(file: Path) -> Code:
    """The code that `save` kept."""
    with np.load(file) as saved:
        degrees = saved["degrees"]
        variable_index = np.repeat(np.arange(len(degrees)), degrees)
        check_index = saved["check_index"].astype(np.int64)
        return Code(check_index, variable_index, int(saved["checks"]), len(degrees), int(saved["lift"]))


def build(block: int, rate: float) -> Code:
    """The mother code from its seed: seconds (quasi-cyclic) to a minute (plain)."""
    edges = density_evolution.load()[rate]
    if block == PEG_VARIABLES:
        degrees = construction.degree_sequence(edges, block)
        return construction.progressive_edge_growth(degrees, round(block * (1 - rate)), SEED)
    degrees = construction.degree_sequence(edges, BLOCK_COLUMNS)
    return construction.quasi_cyclic(degrees, round(BLOCK_COLUMNS * (1 - rate)), LIFT, SEED)


@functools.cache
def mother(block: int, rate: float) -> Code:
    """The mother code: shipped, kept from before, or built now and kept.

    Raises:
        ValueError: if there is no code of that length or rate.
    """
    if block not in BLOCKS or rate not in MOTHER_RATES:
        raise ValueError(f"no code of {block} bits and rate {rate:g}; lengths: {BLOCKS}, rates: {MOTHER_RATES}")
    name = _file(block, rate)
    for folder in (SHIPPED, CACHE):
        if (folder / name).exists():
            return read(folder / name)
    code = build(block, rate)
    save(code, CACHE / name)
    return code


def kinds(code: Code, setting: Setting) -> np.ndarray:
    """0 for a sent bit, 1 for a punctured one, 2 for a shortened one, int8 [variables]."""
    kind = np.zeros(code.variables, np.int8)
    if setting.punctured:
        kind[construction.puncturing_order(code, SEED)[: setting.punctured]] = 1
    if setting.shortened:
        order = construction.shortening_order(code, SEED)
        kind[order[kind[order] == 0][: setting.shortened]] = 2
    return kind
