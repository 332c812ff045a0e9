"""`key_routing`: the nodes of a trusted-node network decide over which paths to relay key, on old information."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from qkd_gym.envs.core import Environment
from qkd_gym.envs.network.relay import (
    close_up,
    deadline_of,
    is_high,
    pack_tag,
    pack_words,
    path_figures,
    relay_in_order,
    target_of,
    wants_two,
)
from qkd_gym.envs.network.routes import Routes, routes_of
from qkd_gym.envs.network.routing import (
    HEAD,
    OVERLOAD,
    PER_LINK,
    PER_PATH,
    QUEUE,
    TRAINING_LOAD,
    UNIT_BITS,
    KeyRoutingParams,
    KeyRoutingState,
    block_key,
    mean_value_per_epoch,
    nominal,
)
from qkd_gym.physics.numerics import stored
from qkd_gym.physics.sampling import bits_to_uniform, random_bits
from qkd_gym.topologies import Topology


@dataclasses.dataclass(frozen=True)
class KeyRouting(Environment[KeyRoutingState, KeyRoutingParams]):
    """Relay key through a network of trusted nodes: each node chooses a path for its next request, or waits.

    ## Description

    Links make key in finite-key blocks and store it in pools at their ends. A request for an end-to-end key is
    relayed from node to node and burns its length on *every* hop. Requests enter at their source's queue; each epoch
    every node decides for the head of its queue. A node reads its own links' pools as they are; of the others it
    knows what gossip brought, 15 to 60 s old. Whoever relies on key that is gone loses the attempt, and some key.

    ## Agents

    The nodes, named as in the topology; all at once, all rewarded alike.

    ## Observation Space

    `Box(0, 2, (9 + 5 K + 2 links,), float32)` a node, clipped; `decode` turns it into physical units.

    | index | quantity | scale |
    |---|---|---|
    | 0 | a request is at the head of the queue | 0 or 1; if 0, so are 1-4, 8 and the paths |
    | 1 | its size | log(kbit / 10) / log(1e5) |
    | 2, 3 | it is of the high class; it wants two disjoint paths | 0 or 1 |
    | 4 | time to its deadline | / 30 s |
    | 5 | requests in the queue | / 4 |
    | 6 | the node's last attempt failed | 0 or 1 |
    | 7 | own links that are up | share |
    | 8 | its target, the number of a node | (number + 1) / nodes |
    | 9 ... | hops of the K paths; then their least fills; size over their least pools | / 8; 1; 1 |
    | 9 + 3 K ... | sums of 1 - fill over their links; ages of their oldest news | / 8; / 60 s |
    | 9 + 5 K ... | fill of each link's pool as this node knows it; then the ages of these readings | 1; / 60 s |

    For two disjoint paths the figures of a path are those of both together.

    ## Action Space

    `Discrete(K + 2)` a node: 0 ... K - 1 relay over that path, K wait, K + 1 reject. Paths are the K with the fewest
    hops, then the shortest; a request for two disjoint paths takes path k and the first of 12 that shares no node
    with it. The mask allows a path whose pools hold enough *as the node knows it*, waiting always, rejecting if there
    is a request; with none only waiting is left. A masked or invalid choice counts as waiting.

    ## Transition Dynamics

    Attempts are served in random order, each whole or not at all. One that meets a pool without enough key fails: on
    its other hops half of its length is burnt already, and the request stays. What is past its deadline or finds the
    queue (4 places) full is lost. Then links finish blocks, pools spill what is above their capacity, links fail (the
    open block is lost, the pool stays) and recover, pools are read for gossip, and at most one request a node
    arrives, log-uniform in size, 30 % of them between one hot pair that moves on. No action reaches arrivals, blocks
    or failures: the same key gives the same ones under any policy.

    ## Reward

    The same for all nodes: bits delivered end to end, times 5 for the high class, over the mean weighted demand of an
    epoch. The mean over steps is the share of the value asked for.

    ## Starting State

    Pools around half full, blocks in any phase, all links up, an epoch's requests in the queues.

    ## Episode End

    Truncated after 600 epochs (10 min). Never terminated. The time left is not observed, and key in stock at the end
    is worth nothing.

    ## Arguments

    `scenario`: see *Scenarios*. `topology`: the name of a shipped network (national benchmarks at 1/25 of their
    lengths) or a `Topology`, 3 to 256 nodes. `num_paths`: K, 1 to 50. Everything else is `KeyRoutingParams`.

    ## Physics provenance

    Blocks: two-decoy BB84 of Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014), its source and receiver
    at 1 GHz, near-optimal settings, 5e6 key-basis clicks a block. Relay: a key of l bits burns l bits on each hop of
    a path, and each of two disjoint paths carries a share as long as the secret (`qkd_gym.physics.networks`). Design
    choices without a published source: demand, deadlines, pool sizes, failures, gossip, the spread of links and the
    key that a failed relay burns.

    ## Validity

    No dead time (detectors that recover within 2 ns). Blocks have their mean key: 5e6 clicks fluctuate by 0.05 %.
    Authentication is not debited. Classical signalling takes no time within an epoch. Every node is trusted; two
    disjoint paths protect against any one of them.

    ## Scenarios

    `training`: the topology at 0.3 of its fluid limit. `easy`: everyone sees all pools as they are.
    `ood-load`, `ood-topology`, `ood-failures`: one shift each.

    ## Baselines

    Practice: shortest path, first fit, widest path, least loaded, reservation, prices. Told all pools: the last two.
    Trained: PPO. Bound: a clairvoyant linear program (`python -m benchmarks.key_routing`). Figures:
    docs/tasks/key_routing.md.

    ## Version History

    v0: first version.
    """

    topology: str | Topology = "nsfnet14"
    num_paths: int = 5

    name: ClassVar[str] = "KeyRouting"
    scenarios: ClassVar = {
        "training": "demand at 0.3 of the network's fluid limit, a hot pair, remote pools known 15-60 s late",
        "easy": "training with everyone seeing all pools as they are",
        "ood-load": "training at 1.83 times the load",
        "ood-topology": "a generated network of as many nodes and as much fibre, at 0.3 of its own fluid limit",
        "ood-failures": "training with each link failing every 300 s for 60 s",
    }
    metrics: ClassVar = {
        "secret_bits": "secret bit: delivered end to end",
        "certifiable_bits": "secret bit: made by all links, the stock at the start counted in the first step",
        "served_value": "bit x weight: delivered",
        "offered_value": "bit x weight: of requests that arrived in the step",
        "arrived_low": "requests of the low class that arrived",
        "arrived_high": "requests of the high class that arrived",
        "blocked_low": "requests of the low class that were lost: rejected, past their deadline, or queue full",
        "blocked_high": "the same of the high class",
        "failed_attempts": "attempts that met a pool without enough key",
        "burnt_bits": "bit: burnt by failed attempts on all hops",
        "spilled_bits": "bit: made by links with a full pool",
        "stored_bits": "bit: in all pools",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.num_paths, int) and 1 <= self.num_paths <= 50):
            raise ValueError(f"num_paths = {self.num_paths!r} must be a whole number from 1 to 50")
        nominal(self.topology, False)  # refuses unknown networks and links beyond reach

    @property
    def agents(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.graphs[0].net.nodes

    @property
    def graphs(self) -> tuple[Routes, Routes]:
        """The topology and its held-out stand-in."""
        return routes_of(self.topology, self.num_paths), routes_of(self.topology, self.num_paths, True)

    @property
    def num_links(self) -> int:
        return len(self.graphs[0].lengths_km)

    @property
    def default_params(self) -> KeyRoutingParams:
        return nominal(self.topology, False)

    def sample_params(self, key, scenario=None) -> KeyRoutingParams:
        scenario = self.check_scenario(scenario or self.scenario)
        base = nominal(self.topology, scenario == "ood-topology")
        links, nodes = self.num_links, len(self.agents)
        words = random_bits(key, 2 * links + nodes)
        u = bits_to_uniform(words)
        # a sum of three uniforms serves for a normal number: bounded, of unit variance
        mass = 2 * sum(bits_to_uniform(random_bits(jax.random.fold_in(key, i), nodes)) for i in range(3)) - 3
        drawn: dict[str, Any] = dict(
            extra_loss_db=1.5 * u[:links],
            misalignment_error=0.003 + 0.006 * u[links : 2 * links],
            node_mass=jnp.exp(0.5 * mass),
        )
        if scenario == "easy":
            drawn |= dict(gossip_interval_s=0.0, gossip_delay_s=0.0)
        elif scenario == "ood-load":
            drawn |= dict(demand_kbit_per_s=base.demand_kbit_per_s * (OVERLOAD / TRAINING_LOAD))
        elif scenario == "ood-failures":
            drawn |= dict(fail_interval_s=300.0)
        return dataclasses.replace(base, **drawn)

    def reset_env(self, key, params):
        links, nodes, paths = self.num_links, len(self.agents), self.num_paths
        u = bits_to_uniform(random_bits(key, 3 * links + 2 + 6 * nodes))
        bits, seconds = block_key(params)
        real = self._of_graph([one.real for one in self.graphs], params)
        lump = jnp.where(real, jnp.floor(bits / UNIT_BITS), 0).astype(jnp.int32)
        interval = (seconds / params.epoch_s).astype(jnp.float32)
        store = jnp.maximum(lump * (params.pool_s / seconds), lump * params.pool_lumps)
        capacity = jnp.floor(store).astype(jnp.int32)
        spread = jnp.minimum(params.start_fill, 1 - params.start_fill)
        fill = params.start_fill + spread * (2 * u[:links] - 1)
        level = jnp.floor(capacity * fill).astype(jnp.int32)
        every, delay = _gossip_epochs(params)
        read_age = jnp.floor(u[links : 2 * links] * every).astype(jnp.int32)
        hot = _pair(u[3 * links : 3 * links + 2], nodes)
        size, tag = self._arrivals(u[-6 * nodes :].reshape(6, nodes), hot, jnp.int32(0), params)
        behind = jnp.zeros((nodes, QUEUE - 1), jnp.int32)
        state = KeyRoutingState(
            time=jnp.int32(0),
            lump=lump,
            interval=interval,
            capacity=capacity,
            level=level,
            progress=u[2 * links : 3 * links],
            up=jnp.ones(links, bool),
            read_age=read_age,
            read=level,
            known=level,
            known_age=jnp.where(read_age >= delay, read_age, read_age + every),
            size=jnp.concatenate([size[:, None], behind], axis=1),
            tag=jnp.concatenate([tag[:, None], behind], axis=1),
            failed=jnp.zeros(nodes, bool),
            hot=hot,
            words=jnp.zeros((nodes, paths, self.graphs[0].words.shape[-1]), jnp.uint32),
            legal=jnp.zeros((nodes, paths + 2), bool),
            arrived_size=size,
            arrived_tag=tag,
            made=jnp.zeros(links, jnp.int32),
            made_total=jnp.sum(level, dtype=jnp.int32),
            delivered_total=jnp.int32(0),
            spilled_total=jnp.int32(0),
            burnt_total=jnp.int32(0),
        )
        state = self._with_choices(state, params)
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        links, nodes, paths = self.num_links, len(self.agents), self.num_paths
        u = bits_to_uniform(random_bits(key, 7 * nodes + links + 3))
        per_node, per_link, rest = u[: 7 * nodes].reshape(7, nodes), u[7 * nodes : -3], u[-3:]
        time = state.time + 1

        # attempts, in random order
        chosen = (action[:, None] == np.arange(paths + 2)[None]) & state.legal & valid[:, None]
        route = jnp.sum(jnp.where(chosen[:, :paths, None], state.words, 0), axis=1, dtype=jnp.uint32)
        attempts = jnp.any(chosen[:, :paths], axis=1)
        rejected = chosen[:, paths + 1]
        size = state.size[:, 0]
        level, served, delivered, burnt = relay_in_order(
            state.level, route, jnp.where(attempts, size, 0), per_node[0], params.failed_share
        )
        weight = jnp.where(is_high(state.tag), params.high_weight, 1.0)

        # queues: what is served, rejected or too late leaves
        due = (state.size > 0) & (deadline_of(state.tag) < time)
        gone = served | rejected
        leaves = due.at[:, 0].set(due[:, 0] | gone)
        lost = due.at[:, 0].set((due[:, 0] & ~served) | rejected)
        kept_size, kept_tag = close_up(state.size, state.tag, (state.size > 0) & ~leaves)

        # links and pools
        fails = per_link < -jnp.expm1(-params.epoch_s / jnp.where(state.up, params.fail_interval_s, params.repair_s))
        progress = state.progress + jnp.where(state.up, 1 / state.interval, 0.0)
        blocks = jnp.floor(progress)
        made = blocks.astype(jnp.int32) * state.lump
        up = state.up ^ fails
        full = level + made
        level = jnp.minimum(full, state.capacity)
        spilled = jnp.sum(full - level, dtype=jnp.int32)

        # news
        every, delay = _gossip_epochs(params)
        read_age = jnp.where(state.read_age + 1 >= every, 0, state.read_age + 1)
        read = jnp.where(read_age == 0, level, state.read)
        comes = read_age == delay
        known = jnp.where(comes, read, state.known)

        # new requests
        moves = rest[0] < -jnp.expm1(-params.epoch_s / params.hot_s)
        hot = jnp.where(moves, _pair(rest[1:], nodes), state.hot)
        new_size, new_tag = self._arrivals(per_node[1:], hot, time, params)
        count = jnp.sum(kept_size > 0, axis=1, dtype=jnp.int32)
        place = (np.arange(QUEUE)[None] == count[:, None]) & (new_size > 0)[:, None]
        overflow = (new_size > 0) & (count == QUEUE)

        made_bits = jnp.sum(made, dtype=jnp.int32)
        state_next = KeyRoutingState(
            time=time,
            lump=state.lump,
            interval=state.interval,
            capacity=state.capacity,
            level=level,
            progress=jnp.where(up, progress - blocks, 0.0),
            up=up,
            read_age=read_age,
            read=read,
            known=known,
            known_age=jnp.where(comes, delay, state.known_age + 1),
            size=jnp.where(place, new_size[:, None], kept_size),
            tag=jnp.where(place, new_tag[:, None], kept_tag),
            failed=attempts & ~served,
            hot=hot,
            words=state.words,
            legal=state.legal,
            arrived_size=new_size,
            arrived_tag=new_tag,
            made=made,
            made_total=state.made_total + made_bits,
            delivered_total=state.delivered_total + delivered,
            spilled_total=state.spilled_total + spilled,
            burnt_total=state.burnt_total + burnt,
        )
        state_next = self._with_choices(state_next, params)

        served_size = jnp.where(served, size, 0)
        served_value = jnp.sum(served_size * weight[:, 0])
        # requests that were there at the start are counted with the first step's
        first = state.time == 0
        came = jnp.concatenate([new_size, jnp.where(first, state.arrived_size, 0)])
        came_high = is_high(jnp.concatenate([new_tag, state.arrived_tag]))
        came_weight = jnp.where(came_high, params.high_weight, 1.0)
        arrived = came > 0

        def number(*of: Array) -> Array:
            return sum(jnp.sum(x, dtype=jnp.float32) for x in of)  # type: ignore[return-value]

        high, new_high = is_high(state.tag), is_high(new_tag)
        stock = jnp.where(first, number(state.level), 0.0)
        info = {
            "secret_bits": UNIT_BITS * number(served_size),
            "certifiable_bits": UNIT_BITS * (number(made) + stock),
            "served_value": UNIT_BITS * served_value,
            "offered_value": UNIT_BITS * number(came * came_weight),
            "arrived_low": number(arrived & ~came_high),
            "arrived_high": number(arrived & came_high),
            "blocked_low": number(lost & ~high, overflow & ~new_high),
            "blocked_high": number(lost & high, overflow & new_high),
            "failed_attempts": number(state_next.failed),
            "burnt_bits": UNIT_BITS * burnt.astype(jnp.float32),
            "spilled_bits": UNIT_BITS * spilled.astype(jnp.float32),
            "stored_bits": UNIT_BITS * number(level),
        }
        reward = jnp.broadcast_to(served_value / mean_value_per_epoch(params), (nodes,)).astype(jnp.float32)
        return self.observe(None, state_next, action, params), state_next, reward, jnp.bool_(False), info

    def observe(self, key, state, action, params):
        nodes = len(self.agents)
        own, level, age = self._knowledge(state, params)
        fill = level / jnp.maximum(state.capacity, 1)[None]
        seconds = age * params.epoch_s
        waiting = state.size[:, 0] > 0
        size, tag = state.size[:, 0], state.tag[:, 0]
        left = (deadline_of(tag) - state.time) * params.epoch_s
        own_words = pack_words(own)
        up = jnp.sum(jax.lax.population_count(own_words & pack_words(state.up)[None]), axis=-1)
        up = up / jnp.maximum(jnp.sum(jax.lax.population_count(own_words), axis=-1), 1)
        queued = jnp.sum(state.size > 0, axis=1) / QUEUE
        head = jnp.stack(
            [
                waiting,
                jnp.log(jnp.maximum(size, 10) / 10) / math.log(1e5),
                is_high(tag) & waiting,
                wants_two(tag) & waiting,
                jnp.where(waiting, left / 30, 0),
                queued,
                state.failed,
                up,
                jnp.where(waiting, (target_of(tag) + 1) / nodes, 0),
            ],
            axis=1,
        )
        hops = jnp.sum(jax.lax.population_count(state.words), axis=-1)
        real = hops > 0
        least_fill, least, scarce, oldest = path_figures(state.words, level, fill, seconds)
        share = jnp.where(real, size[:, None] / jnp.maximum(least, 1), 0)
        # kept rather than worked out again by each reader
        path = [hops / 8, jnp.where(real, stored(least_fill), 0), share, stored(scarce) / 8, stored(oldest) / 60]
        parts = [head, *path, fill, seconds / 60]
        return jnp.clip(jnp.concatenate([x.astype(jnp.float32) for x in parts], axis=1), 0, 2)

    def action_mask(self, state, params):
        return state.legal

    def exogenous(self, state, params):
        """Requests that arrived and key that links made in the epoch that led to `state`."""
        return {"size": state.arrived_size, "tag": state.arrived_tag, "made": state.made}

    def observation_space(self, params=None):
        size = HEAD + PER_PATH * self.num_paths + PER_LINK * self.num_links
        return gym.spaces.Box(0.0, 2.0, (size,), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(self.num_paths + 2)

    @property
    def passive_action(self):
        """Everyone waits."""
        return np.full(len(self.agents), self.num_paths, np.int32)

    # ---- helpers that know the tables --------------------------------------------------------------------------------

    def _of_graph(self, tables: Any, params: KeyRoutingParams) -> Array:
        """The table of the network that these parameters are for."""
        return jnp.where(params.graph == 0, *(jnp.asarray(table) for table in tables))

    def _knowledge(self, state: KeyRoutingState, params: KeyRoutingParams) -> tuple[Array, Array, Array]:
        """(own links, levels as each node knows them, their ages in epochs), all `(nodes, links)`."""
        own = self._of_graph([one.own for one in self.graphs], params)
        return own, jnp.where(own, state.level[None], state.known[None]), jnp.where(own, 0, state.known_age[None])

    def _with_choices(self, state: KeyRoutingState, params: KeyRoutingParams) -> KeyRoutingState:
        """`state` with what its heads can choose from."""
        words = self._words(state, params)
        return dataclasses.replace(state, words=words, legal=self._legal(state, words, params))

    def _words(self, state: KeyRoutingState, params: KeyRoutingParams) -> UInt32[Array, "nodes paths words"]:
        """Paths of each head."""
        tables = np.stack([one.words for one in self.graphs])
        nodes, flat = len(self.agents), tables.reshape(-1, *tables.shape[-2:])
        tag = state.tag[:, 0]
        row = (params.graph * nodes + np.arange(nodes)) * 2 + wants_two(tag)
        found = jnp.asarray(flat)[row * nodes + target_of(tag)]
        return jnp.where((state.size[:, 0] > 0)[:, None, None], found, 0)

    def _legal(self, state: KeyRoutingState, words: Array, params: KeyRoutingParams) -> Bool[Array, "nodes choices"]:
        _, level, _ = self._knowledge(state, params)
        size = state.size[:, :1]
        dry = pack_words(level < size)
        paths = jnp.all((words & dry[:, None, :]) == 0, axis=-1) & jnp.any(words != 0, axis=-1)
        waiting = size > 0
        return jnp.concatenate([paths, jnp.ones_like(waiting), waiting], axis=1)

    def _arrivals(
        self, u: Float[Array, "6 nodes"], hot: Int[Array, "2"], time: Array, params: KeyRoutingParams
    ) -> tuple[Array, Array]:
        """Size and tag of the request that enters at each node."""
        nodes = len(self.agents)
        node = np.arange(nodes)
        mass = jnp.broadcast_to(params.node_mass, (nodes,))
        spread = jnp.log(params.largest_kbit / params.smallest_kbit)
        rate = params.demand_kbit_per_s * spread / jnp.maximum(params.largest_kbit - params.smallest_kbit, 1e-3)
        expected = rate * params.epoch_s
        at_hot = node[None] == hot[:, None]
        by_hot = jnp.where(at_hot[0] | at_hot[1], 0.5 * params.hot_share * expected, 0.0)
        total = jnp.sum(mass)
        others = (1 - params.hot_share) * expected * mass / total
        is_hot = u[0] < by_hot
        comes = u[0] < by_hot + others
        # the others' targets by gravity: leave the node itself out of the cumulated masses
        draw = u[1] * (total - mass)
        below = jnp.sum(jnp.where(node[None, :] < node[:, None], mass[None], 0.0), axis=1)
        draw = jnp.where(draw < below, draw, draw + mass)
        target = jnp.sum((below + mass)[None, :] <= draw[:, None], axis=1, dtype=jnp.int32)
        target = jnp.minimum(target, nodes - 1)
        target = jnp.where(target == node, (node + 1) % nodes, target)  # a rounding can hit the gap
        target = jnp.where(is_hot, jnp.where(at_hot[0], hot[1], hot[0]), target).astype(jnp.int32)
        size = jnp.floor(params.smallest_kbit * jnp.exp(spread * u[2])).astype(jnp.int32)
        high = u[3] < params.high_share
        tables = np.stack([one.two for one in self.graphs]).reshape(-1)
        possible = jnp.asarray(tables)[(params.graph * nodes + node) * nodes + target]
        two = possible & (u[4] < params.two_path_share)
        wait_s = params.shortest_deadline_s + (params.longest_deadline_s - params.shortest_deadline_s) * u[5]
        deadline = time + jnp.floor(wait_s / params.epoch_s).astype(jnp.int32)
        return jnp.where(comes, size, 0), jnp.where(comes, pack_tag(deadline, high, two, target), 0)


def _gossip_epochs(params: KeyRoutingParams) -> tuple[Array, Array]:
    """(interval, delay) in whole epochs; the delay is less than the interval."""
    every = jnp.maximum(jnp.floor(params.gossip_interval_s / params.epoch_s), 1).astype(jnp.int32)
    delay = jnp.floor(params.gossip_delay_s / params.epoch_s).astype(jnp.int32)
    return every, jnp.minimum(delay, every - 1)


def _pair(u: Float[Array, "2"], nodes: int) -> Int[Array, "2"]:
    """Two different nodes."""
    a = jnp.minimum(jnp.floor(u[0] * nodes), nodes - 1).astype(jnp.int32)
    other = jnp.minimum(jnp.floor(u[1] * (nodes - 1)), nodes - 2).astype(jnp.int32)
    return jnp.stack([a, jnp.where(other >= a, other + 1, other)])
