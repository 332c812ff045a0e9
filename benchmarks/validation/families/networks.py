"""Key pools and paths through networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.validation.registry import family
from benchmarks.validation.table import Table, TableError
from qkd_gym import topologies
from qkd_gym.physics import networks


@family("keypool")
def keypool(table: Table):
    """A pool over many steps: fill up to the capacity, then serve all or nothing."""
    start, capacity, dt = table.number("C0"), table.number("cap"), table.number("dt", 1.0)
    generated, demand, steps = table.number("gen") * dt, table.number("dem") * dt, table.number("steps")

    def step(i, carry):
        level, served, dropped = carry
        after = networks.pool_step(level, generated, demand, capacity)
        running = i < steps
        return (
            jnp.where(running, after.level_bits, level),
            served + jnp.where(running, after.served_bits, 0),
            dropped + jnp.where(running, after.dropped_bits, 0),
        )

    nothing = jnp.zeros_like(start)
    level, served, dropped = jax.lax.fori_loop(0, int(steps.max()), step, (jnp.asarray(start), nothing, nothing))
    return {"level": level, "served": served, "dropped": dropped}


@family("net_shortest")
def net_shortest(table: Table):
    """Lengths of the shortest paths in the shipped networks."""
    lengths = []
    for line, net, a, b in zip(table.lines, table.text("net"), table.text("src"), table.text("dst"), strict=True):
        try:
            lengths.append(topologies.load(net).shortest_km(a, b))
        except topologies.TopologyError as error:
            raise TableError(f"line {line}: {error}") from None
    return {"km": np.array(lengths)}
