"""Parity-check matrices: progressive edge growth, plain and quasi-cyclic, and which columns to puncture or shorten.

Plain: Hu, Eleftheriou, Arnold, IEEE Trans. Inf. Theory 51, 386 (2005). Quasi-cyclic: Li, Kumar, IEEE Signal Process.
Lett. 11, 943 (2004): the same search in the lifted graph, a whole circulant placed at a time. Everything runs on the
host, once per code, and follows from the seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Code:
    """A binary code by its parity-check matrix.

    Attributes:
        check_index: check of each edge. variable_index: variable of each edge; edges are ordered by variable.
        checks: rows. variables: columns, by ascending degree unless quasi-cyclic.
        lift: size of the circulants, 1 without structure.
    """

    check_index: np.ndarray
    variable_index: np.ndarray
    checks: int
    variables: int
    lift: int = 1

    @property
    def rate(self) -> float:
        """Design rate 1 - checks / variables."""
        return 1 - self.checks / self.variables

    @property
    def check_degrees(self) -> np.ndarray:
        return np.bincount(self.check_index, minlength=self.checks)

    @property
    def variable_degrees(self) -> np.ndarray:
        return np.bincount(self.variable_index, minlength=self.variables)

    def syndrome(self, word: np.ndarray) -> np.ndarray:
        """Parities of a word, int array [checks]."""
        return np.bincount(self.check_index, word[self.variable_index], self.checks).astype(np.int64) % 2


def degree_sequence(edge_fractions: Mapping[int, float], variables: int) -> np.ndarray:
    """Degrees of the variables, ascending, whose counts are those of the distribution by largest remainder."""
    total = sum(x / d for d, x in edge_fractions.items())
    degrees = np.array(sorted(edge_fractions))
    wanted = np.array([edge_fractions[d] / d / total for d in degrees]) * variables
    counts = np.floor(wanted).astype(int)
    for place in np.argsort(counts - wanted, kind="stable")[: variables - counts.sum()]:
        counts[place] += 1
    return np.repeat(degrees, counts)


class _Growth:
    """A bipartite graph that grows edge by edge; neighbours in tables padded with a sentinel."""

    def __init__(self, variables: int, checks: int, most_variable: int, most_check: int) -> None:
        self.variables, self.checks = variables, checks
        self.of_variable = np.full((variables + 1, most_variable), checks, np.int32)
        self.of_check = np.full((checks + 1, most_check), variables, np.int32)
        self.variable_degree = np.zeros(variables + 1, np.int32)
        self.check_degree = np.zeros(checks + 1, np.int32)
        self.component = np.arange(checks)

    def add(self, variables: np.ndarray, checks: np.ndarray) -> None:
        """New edges; each variable and each check occurs once at most."""
        if self.check_degree[checks].max() == self.of_check.shape[1]:
            wider = np.full((self.checks + 1, 4), self.variables, np.int32)
            self.of_check = np.concatenate([self.of_check, wider], 1)
        self.of_variable[variables, self.variable_degree[variables]] = checks
        self.of_check[checks, self.check_degree[checks]] = variables
        self.variable_degree[variables] += 1
        self.check_degree[checks] += 1

    def join(self, variable: int) -> None:
        """Note that the checks of a variable are connected."""
        mine = self.component[self.of_variable[variable, : self.variable_degree[variable]]]
        if (mine != mine[0]).any():
            self.component[np.isin(self.component, mine)] = mine[0]

    def remove_last(self, variables: np.ndarray, checks: np.ndarray) -> None:
        """Take back what `add` did last."""
        self.variable_degree[variables] -= 1
        self.check_degree[checks] -= 1
        self.of_variable[variables, self.variable_degree[variables]] = self.checks
        self.of_check[checks, self.check_degree[checks]] = self.variables

    def farthest(self, variable: int, allowed: np.ndarray) -> np.ndarray:
        """The allowed checks that a search from the variable never reaches, or else reaches last."""
        frontier = self.of_variable[variable, : self.variable_degree[variable]]
        if len(frontier):
            apart = np.flatnonzero(allowed & ~np.isin(self.component, self.component[frontier]))
            if len(apart):
                return apart
        free = np.append(allowed, False)
        seen = np.zeros(self.variables + 1, bool)
        seen[[variable, self.variables]] = True
        reached = np.zeros(self.checks + 1, bool)
        reached[self.checks] = True
        left = last = np.flatnonzero(free)
        while len(frontier) and len(left):
            last = left
            reached[frontier] = True
            free[frontier] = False
            left = np.flatnonzero(free)
            fresh = self.of_check[frontier].ravel()
            fresh = fresh[~seen[fresh]]
            seen[fresh] = True
            new = np.zeros(self.checks + 1, bool)
            new[self.of_variable[fresh].ravel()] = True
            frontier = np.flatnonzero(new & ~reached)
        return left if len(left) else last

    def shortest_cycle(self, variable: int, most: int) -> int:
        """Length at which the search from the variable first meets itself, `most` if it does not below that.

        The least over all variables is the girth.
        """
        seen = np.zeros(self.variables + 1, bool)
        seen[[variable, self.variables]] = True
        reached = np.zeros(self.checks + 1, bool)
        reached[self.checks] = True
        frontier = self.of_variable[variable, : self.variable_degree[variable]]
        length = 4
        while len(frontier):
            reached[frontier] = True
            fresh = self.of_check[frontier].ravel()
            fresh = fresh[~seen[fresh]]
            if length >= most or len(np.unique(fresh)) < len(fresh):
                break
            seen[fresh] = True
            frontier = self.of_variable[fresh].ravel()
            frontier = frontier[~reached[frontier]]
            length += 2
            if length >= most or len(np.unique(frontier)) < len(frontier):
                break
            length += 2
        else:
            return most
        return min(length, most)


def _code(growth: _Growth, lift: int) -> Code:
    degrees = growth.variable_degree[:-1]
    inside = np.arange(growth.of_variable.shape[1]) < degrees[:, None]
    variable = np.repeat(np.arange(growth.variables), degrees)
    check = growth.of_variable[:-1][inside].astype(np.int64)
    return Code(check, variable, growth.checks, growth.variables, lift)


def _growth(code: Code) -> _Growth:
    growth = _Growth(code.variables, code.checks, code.variable_degrees.max(), code.check_degrees.max())
    first = np.concatenate([[0], np.cumsum(code.variable_degrees)])
    growth.of_variable[code.variable_index, np.arange(len(code.variable_index)) - first[code.variable_index]] = (
        code.check_index
    )
    order = np.argsort(code.check_index, kind="stable")
    first = np.concatenate([[0], np.cumsum(code.check_degrees)])
    growth.of_check[code.check_index[order], np.arange(len(order)) - first[code.check_index[order]]] = (
        code.variable_index[order]
    )
    growth.variable_degree[:-1], growth.check_degree[:-1] = code.variable_degrees, code.check_degrees
    return growth


def progressive_edge_growth(degrees: Sequence[int] | np.ndarray, checks: int, seed: int) -> Code:
    """A code whose columns have these degrees; rows even out to one or two neighbouring degrees.

    Each edge goes to a check as far as can be from its variable, the least loaded of them, ties at random.
    """
    degrees = np.sort(np.asarray(degrees))
    rng = np.random.default_rng(seed)
    growth = _Growth(len(degrees), checks, int(degrees[-1]), int(np.ceil(degrees.sum() / checks)) + 2)
    everywhere = np.ones(checks, bool)
    for variable, degree in enumerate(degrees):
        for edge in range(degree):
            candidates = growth.farthest(variable, everywhere) if edge else np.arange(checks)
            load = growth.check_degree[candidates]
            growth.add(np.array([variable]), np.array([rng.choice(candidates[load == load.min()])]))
            growth.join(variable)
    return _code(growth, 1)


def quasi_cyclic(
    degrees: Sequence[int] | np.ndarray, check_blocks: int, lift: int, seed: int, girth: int = 8, tries: int = 12
) -> Code:
    """A code of circulants: block columns have these degrees; variable (j, t) meets check (i, t + shift mod lift).

    As `progressive_edge_growth` with the first variable of each block column, one circulant a block at most. Of up to
    `tries` shifts the first is taken that closes no cycle below `girth` through the copies of its own circulant, else
    the one with the longest.
    """
    degrees = np.sort(np.asarray(degrees))
    if degrees[-1] > check_blocks:
        raise ValueError(f"degree {degrees[-1]} exceeds the {check_blocks} block rows; lift by less")
    rng = np.random.default_rng(seed)
    checks, variables = check_blocks * lift, len(degrees) * lift
    growth = _Growth(variables, checks, int(degrees[-1]), int(np.ceil(degrees.sum() / check_blocks)) + 2)
    turn = np.arange(lift)
    for column, degree in enumerate(degrees):
        allowed = np.ones((check_blocks, lift), bool)
        for _ in range(degree):
            candidates = growth.farthest(column * lift, allowed.ravel())
            load = growth.check_degree[candidates]
            candidates = rng.permutation(candidates[load == load.min()])[:tries]
            best = (0, -1)
            for check in candidates:
                new = column * lift + turn, check // lift * lift + (check + turn) % lift
                growth.add(*new)
                length = growth.shortest_cycle(column * lift, girth)
                growth.remove_last(*new)
                best = max(best, (length, int(check)), key=lambda x: x[0])
                if length >= girth:
                    break
            check = best[1]
            growth.add(column * lift + turn, check // lift * lift + (check + turn) % lift)
            for variable in column * lift + turn:
                growth.join(variable)
            allowed[check // lift] = False
    return _code(growth, lift)


def girth(code: Code, most: int = 20) -> int:
    """Length of the shortest cycle, `most` if there is none below; one variable a circulant is enough."""
    growth, shortest = _growth(code), most
    for variable in range(0, code.variables, code.lift):
        shortest = growth.shortest_cycle(variable, shortest)
    return shortest


def puncturing_order(code: Code, seed: int) -> np.ndarray:
    """All variables in the order in which they are punctured, so that smaller fractions nest in larger ones.

    First those no two of which share a check, so that every punctured bit can be recovered in one step (untainted
    puncturing: Elkouss, Martinez-Mateo, Martin, IEEE Wireless Commun. Lett. 1, 585 (2012)), of least degree first; then
    the rest, likewise.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(code.variables)
    shuffled = shuffled[np.argsort(code.variable_degrees[shuffled], kind="stable")]
    touched = np.zeros(code.checks, bool)
    first = np.concatenate([[0], np.cumsum(code.variable_degrees)])
    clean, rest = [], []
    for variable in shuffled:
        mine = code.check_index[first[variable] : first[variable + 1]]
        if touched[mine].any():
            rest.append(variable)
        else:
            touched[mine] = True
            clean.append(variable)
    return np.array(clean + rest)


def shortening_order(code: Code, seed: int) -> np.ndarray:
    """All variables in the order in which they are shortened: at random, the same for every fraction."""
    return np.random.default_rng([seed, 1]).permutation(code.variables)
