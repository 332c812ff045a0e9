"""`resource_allocation`: controllers of links place quantum channels beside classical traffic and serve tenants."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qkd_gym.envs.core import Environment
from qkd_gym.envs.network import allocation
from qkd_gym.envs.network import coexistence as light
from qkd_gym.envs.network.allocation import (
    ACTIONS,
    ALL,
    CHANNELS,
    DECADES,
    LEAST_NOISE,
    PARTS,
    POWERS,
    RELEASES,
    SLOTS,
    SOON,
    TENANTS,
    TO_POWER,
    TO_RELEASE,
    TO_WAVE,
    TO_WINDOW,
    UNIT_BITS,
    WAVES,
    WINDOWS,
    ResourceAllocationParams,
    ResourceAllocationState,
    claims_of,
)
from qkd_gym.envs.network.contracts import Plan, new_orders, plan_of, serve, time_shares
from qkd_gym.physics.numerics import stored
from qkd_gym.physics.sampling import bits_to_normal, bits_to_uniform, random_bits
from qkd_gym.topologies import Topology, TopologyError


@dataclasses.dataclass(frozen=True)
class ResourceAllocation(Environment[ResourceAllocationState, ResourceAllocationParams]):
    """Place quantum channels beside classical traffic, share detectors, and serve tenants with key.

    ## Description

    A metropolitan network of trusted nodes. Each fibre carries one quantum channel beside up to 12 classical ones,
    which come and go; each lit one scatters Raman noise into the quantum receiver, and a direct neighbour in the grid
    leaks through its filter. The controller of a link chooses the wavelength of its quantum channel (five places
    between the classical ones in the C band, or the quiet but lossy O band), the time slots in which it uses the
    detectors of its receiving node, the launch power of the classical channels, and whom it gives key to. Two things
    bind controllers together: all links received at a node share one set of detectors, and a tenant's key must come
    from every link of its route at once.

    ## Agents

    The link controllers, named by the ends of their links; all at once, all rewarded alike.

    ## Observation Space

    `Box(0, 2, (90 + 4 links,), float32)` a link, clipped; `decode` turns it into physical units.

    | index | quantity | scale |
    |---|---|---|
    | 0, 1, 2 | steps below full power; release; steps of relocking left | / 3; / 2; / 5 |
    | 3, 4 | length; extra loss | / 100 km; / 3 dB |
    | 5, 6 | fill of the pool; key of the last step over nominal | 1 |
    | 7, 8 | share of that step with detectors; slots that others claimed too | 1; / 4 |
    | 9 | error rate of the last block | x 10 |
    | 10, 11 | links that share its detectors, itself among them; its number among them | / 4 |
    | 12 ... 17 | wavelength | one-hot |
    | 18 ... 21; 22 ... 25 | slots claimed; others' claims on them | 0 or 1; / 3 |
    | 26 ... 31 | noise read at each wavelength when last used, counts per gate n | log10(n / 1e-7) / 5 |
    | 32 ... 37 | time since then | / 120 steps |
    | 38 ... 49 | classical channels: dark, common or high format | / 2 |
    | 50 ... 57; 58 ... 65 | tenants: route over this link; premium | 0 or 1 |
    | 66 ... 73; 74 ... 81 | what is left of the order, in steps of its mean demand; time left | / 60; / 30 steps |
    | 82 ... 89 | the same over the key that this link makes nominally until the deadline | / 2 |
    | 90 ... | all links: fill; sum of 82 ... 89; key per detector time over nominal; rivals | 1; / 4; / 2; 1 |

    ## Action Space

    `Discrete(25)`, one change a minute: 0 keep; 1-6 tune to a wavelength (1: O band, 2-6: C band); 7-17 claim slots
    (7: none, 8-11: one, 12-14: two in a row, 15-16: three, 17: all four); 18-21 launch power (full, 3, 6, 9 dB less);
    22-24 release key to all orders, to premium ones and those due within 5 min, to premium ones only. The mask forbids
    what is set already, and tuning while relocking. A forbidden choice keeps everything; an index out of range does
    too, and its link serves nobody in that step.

    ## Transition Dynamics

    Settings change; then lightpaths come and go (unseen before the decision), then key is made. A new wavelength costs
    5 steps of relocking without claims. A slot that one link claims is its own; one that k claim loses half to changing
    over and is divided. The step's clicks are one finite-key block, 60 s times the share of slots: short blocks pay
    more than their share for statistics. Pools spill above their capacity. Then tenants are served, premium ones first:
    what is left of the order, as far as every link of the route releases it and holds it; delivered key is burnt on all
    of them. An order is lost at its deadline, and the next one comes. A lit channel whose power at its receiver is
    below the sensitivity of its format is cut off for that step. No action reaches lightpaths or orders: the same key
    gives the same ones under any policy.

    ## Reward

    The same for all links: key delivered, in units of each tenant's mean demand, weighted (premium 4), over the sum of
    weights; less the price of lightpaths cut off (0.4 / links for a high one, a quarter of it for a common one). Mean
    demand served without a cut is 1 a step.

    ## Starting State

    O band, full power, all slots claimed, key released to all; pools half full, tenants in the middle of an order,
    lightpaths as in the long run.

    ## Episode End

    Truncated after 480 steps (8 h). Never terminated. The time left is not observed, and key in stock at the end is
    worth nothing.

    ## Arguments

    `scenario`: see *Scenarios*. `topology`: "metro6", a shipped network, or a `Topology` of at least 3 nodes and at
    most 64 links. Everything else is `ResourceAllocationParams`.

    ## Physics provenance

    Raman noise: Eraerds et al., New J. Phys. 12, 063027 (2010), with the library's design curve (good to +-50 %, hence
    the hidden factor of each fibre). Key: two-decoy BB84 of Lim et al., Phys. Rev. A 89, 022307 (2014), its source and
    receiver at 1 GHz, eps_sec 1e-10 for each block. Gates of 0.2 ns and filters of 0.1 nm beside traffic, and launch
    powers lowered to what receivers need: Patel et al., Phys. Rev. X 2, 041010 (2012). One set of detectors for many
    senders in turn: Froehlich et al., Nature 501, 69 (2013). Design choices without a published source: the grid,
    isolation, traffic, formats' sensitivities, relocking, slots, pools, orders, weights and prices.

    ## Validity

    Classical light runs along with the quantum light. No four-wave mixing, no dead time; the formats need power only,
    not OSNR. Blocks have their mean key; what is read has the noise of its counts. Source settings are fixed.
    Lightpaths are local to their fibre. Authentication is not debited. Pools and claims of others are known as of the
    last step. Every node is trusted.

    ## Scenarios

    `training`: random fibres and tenants on the network named. `easy`: everything lasts four times as long,
    fibres are alike. `ood-traffic`, `ood-fibre`, `ood-topology`: one shift each.

    ## Baselines

    Practice: fixed band, first fit, Raman-aware greedy, best fit of detectors and tenants. Bound: a clairvoyant linear
    program, on small cases an integer one (`python -m benchmarks.resource_allocation`). Figures:
    docs/tasks/resource_allocation.md.

    ## Version History

    v0: first version.
    """

    topology: str | Topology = "metro6"

    name: ClassVar[str] = "ResourceAllocation"
    scenarios: ClassVar = {
        "training": "a metro, fibres half full of lightpaths that come and go; demand twice what even shares carry",
        "easy": "training with lightpaths and orders that last four times as long, in fibres that are alike",
        "ood-traffic": "training with fibres 70 % full, more of it in the high format",
        "ood-fibre": "training with Raman noise and neighbours' leakage 2 to 3 times as strong",
        "ood-topology": "another generated network of as many nodes, links and kilometres",
    }
    metrics: ClassVar = {
        "secret_bits": "secret bit: delivered to tenants, end to end",
        "certifiable_bits": "secret bit: made by all links, the stock at the start counted in the first step",
        "served_value": "weighted share: delivered, over the tenants' mean demand",
        "offered_value": "the same of the orders placed, those at the start counted in the first step",
        "drop_cost": "the same: price of classical traffic without power",
        "dropped_common": "lightpath: common ones without power",
        "dropped_high": "lightpath: high ones without power",
        "spilled_bits": "bit: made by links with a full pool",
        "stored_bits": "bit: in all pools",
        "relocking": "link: without key after a change of wavelength",
        "contested_slots": "slot: claimed by several links, counted for each",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        nominal(self.topology, False)  # refuses unknown networks and links beyond reach

    @property
    def agents(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return tuple(f"{link.a}-{link.b}" for link in plan_of(self.topology).net.links)

    @property
    def plans(self) -> tuple[Plan, Plan]:
        """The topology and its held-out stand-in."""
        return plan_of(self.topology), plan_of(self.topology, True)

    @property
    def default_params(self) -> ResourceAllocationParams:
        return nominal(self.topology, False)

    def sample_params(self, key, scenario=None) -> ResourceAllocationParams:
        scenario = self.check_scenario(scenario or self.scenario)
        base = nominal(self.topology, scenario == "ood-topology")
        links, pairs = len(self.agents), len(self.plans[0].pairs)
        u = bits_to_uniform(random_bits(key, 2 * links + TENANTS))
        z = bits_to_normal(random_bits(jax.random.fold_in(key, 1), links * (1 + WAVES))).reshape(1 + WAVES, links)
        z = jnp.clip(z, -2.5, 2.5)
        alike = 0.0 if scenario == "easy" else 1.0
        drawn: dict[str, Any] = dict(
            extra_loss_db=0.5 + 1.5 * u[:links],
            misalignment_error=0.003 + 0.006 * u[links : 2 * links],
            tenant_pair=jnp.floor(jnp.minimum(u[2 * links :] * pairs, pairs - 1)).astype(jnp.int32),
            raman_factor=jnp.exp(0.35 * alike * z[0]),
            neighbour_isolation_db=72.0 + 3.0 * alike * z[1:].T,
        )
        if scenario == "easy":
            drawn |= {name: 4.0 * getattr(base, name) for name in ("hold_min", "quiet_min", "busy_min", "regime_min")}
            drawn |= dict(shortest_order_steps=32.0, longest_order_steps=120.0)
        elif scenario == "ood-traffic":
            drawn |= dict(quiet_min=30.0, busy_min=12.0, high_share=0.3)
        elif scenario == "ood-fibre":
            drawn |= dict(
                raman_factor=2.0 * drawn["raman_factor"],
                neighbour_isolation_db=drawn["neighbour_isolation_db"] - 5.0,
            )
        return dataclasses.replace(base, **drawn)

    def reset_env(self, key, params):
        links = len(self.agents)
        u = bits_to_uniform(random_bits(key, links * (CHANNELS + 1) + 3 * TENANTS))
        per_channel, u = u[: links * CHANNELS].reshape(links, CHANNELS), u[links * CHANNELS :]
        busy, per_tenant = u[:links] < 0.5, u[links:].reshape(3, TENANTS)
        together, routes = self._of_graph("together", params), self._of_graph("routes", params)
        eta, noise = light.transmittance(params), light.noise_per_channel(params)
        each = allocation.nominal_units(eta, noise, params)
        pair = jnp.clip(params.tenant_pair, 0, routes.shape[0] - 1)
        route = jnp.asarray(routes)[pair]
        fair = each / jnp.sum(together, axis=1)
        crossing = jnp.maximum(jnp.sum(route, axis=0), 1)
        demand = params.load * jnp.min(jnp.where(route > 0, (fair / crossing)[None], jnp.inf), axis=1)
        demand = jnp.maximum(demand, 1.0)
        size, steps = new_orders(per_tenant[:2], demand, params)
        # in the middle of its first order: the rest of it is asked for
        gone = jnp.floor(per_tenant[2] * steps)
        rest = jnp.floor(size * (1 - gone / steps)).astype(jnp.int32)
        capacity = jnp.floor(params.pool_min / params.step_min * fair).astype(jnp.int32)
        level = jnp.floor(params.start_fill * capacity).astype(jnp.int32)
        zero = jnp.zeros(links, jnp.int32)
        state = ResourceAllocationState(
            time=jnp.int32(0),
            noise=noise,
            eta=eta,
            nominal=each,
            capacity=capacity,
            route=route.astype(jnp.int32),
            demand=demand,
            lit=light.at_start(per_channel, busy, params),
            busy=busy,
            wave=zero,
            window=jnp.full(links, len(WINDOWS) - 1, jnp.int32),
            power=zero,
            release=zero,
            relock=zero,
            level=level,
            backlog=rest,
            size=rest,
            left=(steps - gone).astype(jnp.int32),
            share=jnp.zeros(links, jnp.float32),
            contested=jnp.zeros(links, jnp.float32),
            qber=jnp.zeros(links, jnp.float32),
            worth=jnp.zeros(links, jnp.float32),
            seen_noise=jnp.zeros((links, WAVES), jnp.float32),
            seen_age=jnp.full((links, WAVES), 1000, jnp.int32),
            made=zero,
            delivered=jnp.zeros(TENANTS, jnp.int32),
            ordered=rest,
            made_total=jnp.sum(level, dtype=jnp.int32),
            delivered_total=jnp.int32(0),
            spilled_total=jnp.int32(0),
        )
        return self.observe(None, state, None, params), state

    def step_env(self, key, state, action, params):
        action, valid = self.clean_action(action)
        links = len(self.agents)
        words = random_bits(key, links * (CHANNELS + 3) + 2 * TENANTS)
        u = bits_to_uniform(words)
        per_channel, at = u[: links * CHANNELS].reshape(links, CHANNELS), links * CHANNELS
        turns, readings = u[at : at + links], words[at + links : at + 3 * links].reshape(2, links)
        per_tenant = u[at + 3 * links :].reshape(2, TENANTS)

        # settings
        wave, window, power, release = self._decide(state, action, valid)
        retuned = wave != state.wave
        relock = jnp.where(retuned, jnp.floor(params.relock_steps).astype(jnp.int32), state.relock)

        # classical traffic of this step: what comes now was not seen before the decision
        flips = turns < -jnp.expm1(-params.step_min / params.regime_min)
        busy = state.busy ^ flips
        lit = light.comings(state.lit, per_channel, busy, params.step_min, params)
        dropped_common, dropped_high = light.cut_off(lit, power, params)

        # key of this step
        claims = claims_of(window) * (relock == 0)[:, None]
        share, contested = time_shares(claims, self._of_graph("together", params), params.resync_share)
        tuned = wave[:, None] == np.arange(WAVES)[None]
        eta = jnp.sum(jnp.where(tuned, state.eta, 0), axis=1)
        noise = stored(allocation.noise_at(state.noise, tuned, lit, power, params))
        pulses = params.clock_hz * 60 * params.step_min * share
        made = jnp.floor(light.block_bits(eta, noise, pulses, params.misalignment_error, params) / UNIT_BITS).astype(
            jnp.int32
        )
        full = state.level + made
        level = jnp.minimum(full, state.capacity)
        spilled = jnp.sum(full - level, dtype=jnp.int32)

        # contracts, premium ones first
        premium = np.arange(TENANTS) < params.premium_tenants
        soon = premium | (state.left <= params.soon_steps)
        mode = release[None, :]
        released = (mode == ALL) | ((mode == SOON) & soon[:, None]) | premium[:, None]
        level, delivered = serve(level, state.backlog, state.route, released & valid[None, :])
        rest, left = state.backlog - delivered, state.left - 1
        due = left <= 0
        size, steps = new_orders(per_tenant, state.demand, params)

        # what was read
        qber, seen = self._read(readings, eta, noise, pulses, params)
        had = share > 0
        seen_now = tuned & had[:, None]
        burnt = jnp.sum(delivered * jnp.sum(state.route, axis=1, dtype=jnp.int32), dtype=jnp.int32)
        state_next = dataclasses.replace(
            state,
            time=state.time + 1,
            lit=lit,
            busy=busy,
            wave=wave,
            window=window,
            power=power,
            release=release,
            relock=jnp.maximum(relock - 1, 0),
            level=level,
            backlog=jnp.where(due, size, rest),
            size=jnp.where(due, size, state.size),
            left=jnp.where(due, steps, left),
            share=share,
            contested=contested,
            qber=jnp.where(had, qber, state.qber),
            worth=jnp.where(had, made / jnp.maximum(share * state.nominal, 1e-3), state.worth),
            seen_noise=jnp.where(seen_now, seen[:, None], state.seen_noise),
            seen_age=jnp.where(seen_now, 0, jnp.minimum(state.seen_age + 1, 1000)),
            made=made,
            delivered=delivered,
            ordered=jnp.where(due, size, 0),
            made_total=state.made_total + jnp.sum(made, dtype=jnp.int32),
            delivered_total=state.delivered_total + burnt,
            spilled_total=state.spilled_total + spilled,
        )

        unit = allocation.units_of_value(state.demand, params)
        served = jnp.sum(delivered * unit)
        lost = (dropped_high + params.common_price * dropped_common) * params.drop_price * params.step_min
        cost = jnp.sum(lost) / links
        first = state.time == 0

        def number(x: Array) -> Array:
            return jnp.sum(x, dtype=jnp.float32)

        info = {
            "secret_bits": UNIT_BITS * number(delivered),
            "certifiable_bits": UNIT_BITS * (number(made) + jnp.where(first, number(state.level), 0.0)),
            "served_value": served,
            "offered_value": jnp.sum((state_next.ordered + jnp.where(first, state.backlog, 0)) * unit),
            "drop_cost": cost,
            "dropped_common": number(dropped_common),
            "dropped_high": number(dropped_high),
            "spilled_bits": UNIT_BITS * spilled.astype(jnp.float32),
            "stored_bits": UNIT_BITS * number(level),
            "relocking": number(relock > 0),
            "contested_slots": number(contested),
        }
        reward = jnp.broadcast_to(served - cost, (links,)).astype(jnp.float32)
        return self.observe(None, state_next, action, params), state_next, reward, jnp.bool_(False), info

    def observe(self, key, state, action, params):
        links = len(self.agents)
        together = self._of_graph("together", params)
        claims = claims_of(state.window)
        others = jnp.sum(together[:, :, None] * claims[None], axis=1) - claims
        rivals = jnp.sum(together, axis=1)
        place = jnp.sum(together * np.tril(np.ones((links, links), np.float32), -1), axis=1)
        premium = np.arange(TENANTS) < params.premium_tenants
        fill = state.level / jnp.maximum(state.capacity, 1)
        fair = state.nominal / rivals
        log_noise = jnp.log10(jnp.maximum(state.seen_noise, LEAST_NOISE) / LEAST_NOISE) / DECADES
        until = state.backlog[None] / (jnp.maximum(fair[:, None], 1) * jnp.maximum(state.left, 1)[None])
        head = [
            state.power / (POWERS - 1),
            state.release / (RELEASES - 1),
            state.relock / 5,
            params.length_km / 100,
            params.extra_loss_db / 3,
            fill,
            state.made / jnp.maximum(state.nominal, 1),
            state.share,
            state.contested / SLOTS,
            10 * state.qber,
            rivals / 4,
            place / 4,
        ]
        on = state.route.T
        each = jnp.ones((links, 1), jnp.float32)
        parts = [
            jnp.stack(jnp.broadcast_arrays(*head), axis=1),
            state.wave[:, None] == np.arange(WAVES)[None],
            claims,
            others / 3,
            log_noise,
            jnp.minimum(state.seen_age, 120) / 120,
            state.lit / 2,
            on,
            each * premium[None],
            each * (state.backlog / jnp.maximum(state.demand, 1) / 60)[None],
            each * (state.left / 30)[None],
            jnp.where(on > 0, until / 2, 0),
            each * fill[None],
            each * (jnp.sum(jnp.where(on > 0, until, 0), axis=1) / 4)[None],
            each * (state.worth / 2)[None],
            together,
        ]
        return jnp.clip(jnp.concatenate([x.astype(jnp.float32) for x in parts], axis=1), 0, 2)

    def action_mask(self, state, params):
        return jnp.concatenate(
            [
                jnp.ones((len(self.agents), 1), bool),
                (state.wave[:, None] != np.arange(WAVES)[None]) & (state.relock == 0)[:, None],
                state.window[:, None] != np.arange(len(WINDOWS))[None],
                state.power[:, None] != np.arange(POWERS)[None],
                state.release[:, None] != np.arange(RELEASES)[None],
            ],
            axis=1,
        )

    def exogenous(self, state, params):
        """Lightpaths, and orders placed with the time that they leave, in the step that led to `state`."""
        return {"lit": state.lit, "ordered": state.ordered, "left": state.left}

    def observation_space(self, params=None):
        return gym.spaces.Box(0.0, 2.0, (sum(PARTS) + 4 * len(self.agents),), np.float32)

    def action_space(self, params=None):
        return gym.spaces.Discrete(ACTIONS)

    @property
    def passive_action(self):
        """Everyone keeps what was set."""
        return np.zeros(len(self.agents), np.int32)

    # ---- helpers -----------------------------------------------------------------------------------------------------

    def _of_graph(self, name: str, params: ResourceAllocationParams) -> Array:
        """The table of the network that these parameters are for."""
        return jnp.where(params.graph == 0, *(jnp.asarray(getattr(plan, name)) for plan in self.plans))

    def _decide(self, state: ResourceAllocationState, action: Array, valid: Array) -> tuple[Array, ...]:
        """Settings after everyone's one change; what the mask forbids changes nothing."""

        def pick(now: Array, start: int, count: int, allowed: Array | bool = True) -> Array:
            chosen = action - start
            return jnp.where(valid & (chosen >= 0) & (chosen < count) & allowed, chosen, now)

        return (
            pick(state.wave, TO_WAVE, WAVES, state.relock == 0),
            pick(state.window, TO_WINDOW, len(WINDOWS)),
            pick(state.power, TO_POWER, POWERS),
            pick(state.release, TO_RELEASE, RELEASES),
        )

    def _read(self, words: Array, eta: Array, noise: Array, pulses: Array, params: Any) -> tuple[Array, Array]:
        """(error rate of the key basis, noise per gate from the vacuum intensity), as counted in the step."""
        z = bits_to_normal(words)
        clicks = light.click_probs(eta, noise, params.misalignment_error, params)
        n = pulses * params.key_basis_prob**2 * jnp.sum(params.probabilities[None] * clicks.click, axis=-1)
        m = pulses * params.key_basis_prob**2 * jnp.sum(params.probabilities[None] * clicks.error, axis=-1)
        qber = jnp.maximum(m + jnp.sqrt(m) * z[0], 0) / jnp.maximum(n, 1)
        gates = pulses * params.probabilities[2]
        background = 2 * params.dark_count_prob_per_gate
        seen = (clicks.detection[:, 2] - eta * params.intensities[2]) * gates
        seen = jnp.maximum(seen + jnp.sqrt(jnp.maximum(seen, 0)) * z[1], 0) / jnp.maximum(gates, 1)
        return jnp.clip(qber, 0, 0.5), jnp.maximum(seen - background, 0)


@functools.cache
def nominal(topology: str | Topology, held: bool) -> ResourceAllocationParams:
    """The network as its data sheets say, tenants between its first pairs of nodes."""
    plan = plan_of(topology, held)
    links = len(plan.lengths_km)
    params = ResourceAllocationParams(
        graph=int(held),
        length_km=plan.lengths_km,
        extra_loss_db=np.full(links, 1.0, np.float32),
        raman_factor=np.ones(links, np.float32),
        neighbour_isolation_db=np.full((links, WAVES), 72.0, np.float32),
        misalignment_error=np.full(links, 0.005, np.float32),
        tenant_pair=np.arange(TENANTS, dtype=np.int32) % len(plan.pairs),
    )
    with jax.ensure_compile_time_eval(), jax.enable_x64(False):
        units = np.asarray(
            jax.jit(lambda p: allocation.nominal_units(light.transmittance(p), light.noise_per_channel(p), p))(params)
        )
    dead = [f"{link.a} - {link.b}" for link, key in zip(plan.net.links, units, strict=True) if key < 10]
    if dead:
        raise TopologyError(
            f"{plan.net.name}: no key beside classical traffic over {', '.join(dead[:4])}: too long; use scaled() or "
            "with_trusted_nodes()"
        )
    return params
