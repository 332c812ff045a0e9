"""The optimum of `qkd/DecoyBlock` on the scenario `reference`, by dynamic programming over the belief.

There the loss, the receiver and the hazard's constants are known and nothing is announced, so that all an operator does
not know is the level of the hazard (calm or storm), and all it learns of it are the events. State: planned length and
age of the open block, and the belief in a storm. The table next to this file was made by

    python -m agents.oracle.decoy_reference --write

and the agent acts from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from agents.practice.decoy_block import EventBayesRule, Plan, make_action, make_plan
from qkd_gym import struct
from qkd_gym.envs.calibration.decoy_block import (
    DecoyBlock,
    DecoyBlockParams,
    Settings,
    block_key_bits,
    decode,
    hazard_of,
    mean_slice_counts,
    reference_bits_per_slice,
    reference_params,
)
from qkd_gym.envs.core import strong
from qkd_gym.evaluation.agent import Agent
from qkd_gym.evaluation.runner import evaluate
from qkd_gym.physics.decoy_settings import near_optimal_settings
from qkd_gym.physics.disturbance import hazard_law, hazard_rates
from qkd_gym.physics.information import NEPER_PER_DB

TABLE = Path(__file__).with_name("decoy_reference.json")
#: Planned lengths, slices, and the oldest block that the program tells apart.
PLANS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 65, 90, 130, 200)
OLDEST = 260
#: Log-odds of a storm at which decisions are tabulated.
LOG_ODDS = tuple(np.linspace(-7.0, 6.0, 53).tolist())
SWEEPS = 1500


class Policy(NamedTuple):
    """Decisions by belief (last axis) and, where a block is open, by planned length."""

    plan: Any  # (beliefs,) index of the length of a fresh block
    young: Any  # (plans, beliefs) a block younger than this is dropped: it holds no key, and the plan has changed
    ripe: Any  # (plans, beliefs) a block of this age is closed
    key_per_slice: float  # long-run optimum, in units of the reward


def storm_law(params: DecoyBlockParams) -> Array:
    """(from, to, event): law of calm and storm where nothing is announced."""
    return hazard_law(hazard_rates(hazard_of(params), params.slice_s))[::2, ::2]


def block_values(params: DecoyBlockParams) -> Array:
    """Expected key of a block by planned length and age, (plans, ages), in units of the reward."""
    eta = params.receiver_efficiency * jnp.exp(-NEPER_PER_DB * params.loss_db)

    def one(planned: Array, age: Array) -> Array:
        settings = Settings(*near_optimal_settings(planned * params.clock_hz * params.slice_s, eta))
        return block_key_bits(age * mean_slice_counts(params.loss_db, settings, params), settings, params)

    ages, plans = jnp.arange(OLDEST + 1, dtype=jnp.float32), jnp.asarray(PLANS, jnp.float32)
    return jax.vmap(lambda n: jax.vmap(lambda a: one(n, a))(ages))(plans) / reference_bits_per_slice(params)


def solve() -> Policy:
    """Relative value iteration of the average-reward problem; linear interpolation in the belief."""
    params = strong(reference_params())
    beliefs = 1 / (1 + np.exp(-np.array(LOG_ODDS)))
    law = np.asarray(storm_law(params), np.float64)
    quiet, event = (_belief_step(beliefs, law[..., e]) for e in (0, 1))
    value = block_values(params)
    gained = jnp.concatenate([jnp.diff(value, axis=1), jnp.zeros((len(PLANS), 1), jnp.float32)], axis=1)

    def go_on(ahead: Array, fresh: Array) -> Array:
        older = jnp.concatenate([ahead[:, 1:], ahead[:, -1:]], axis=1)
        kept = quiet.chance[None, None] * (gained[:, :, None] + older @ quiet.interpolate)
        return kept + event.chance[None, None] * ((fresh @ event.interpolate)[None, None, :] - value[:, :, None])

    def sweep(_: int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        worth = go_on(*carry[:2])
        fresh = jnp.max(worth[:, 0], axis=0)
        return jnp.maximum(worth, fresh[None, None]) - fresh[0], fresh - fresh[0], fresh[0]

    start = (
        jnp.zeros((len(PLANS), OLDEST + 1, len(beliefs)), jnp.float32),
        jnp.zeros(len(beliefs), jnp.float32),
        jnp.float32(0),
    )
    ahead, fresh, rate = jax.jit(lambda: jax.lax.fori_loop(0, SWEEPS, sweep, start))()
    worth = np.asarray(go_on(ahead, fresh))
    keep = worth[:, 1:] >= np.max(worth[:, 0], axis=0) - 1e-6  # (plans, ages from 1, beliefs)
    ages = np.arange(1, OLDEST + 1)[None, :, None]
    holds_key = np.asarray(value)[:, 1:, None] > 0
    young = np.min(np.where(keep, ages, OLDEST + 1), axis=1)
    ripe = np.min(np.where(~keep & (ages >= young[:, None]), ages, OLDEST + 1), axis=1)
    # Between `young` and `ripe` the program goes on, after it closes, and what it drops early is worth nothing.
    assert not np.any(keep & (ages >= ripe[:, None]) & holds_key & (ages < OLDEST)), "the stopping set has a hole"
    return Policy(np.argmax(worth[:, 0], axis=0), young, ripe, float(rate))


class _BeliefStep(NamedTuple):
    chance: Array  # (beliefs,) of this outcome
    interpolate: Array  # (beliefs, beliefs): values @ interpolate are those at the next beliefs


def _belief_step(beliefs: np.ndarray, law: np.ndarray) -> _BeliefStep:
    joint = np.stack([1 - beliefs, beliefs], axis=-1) @ law
    chance = joint.sum(axis=-1)
    odds = np.clip(np.log(joint[:, 1] / joint[:, 0]), LOG_ODDS[0], LOG_ODDS[-1])
    at = (odds - LOG_ODDS[0]) / (LOG_ODDS[1] - LOG_ODDS[0])
    weights = np.maximum(1 - np.abs(at[None, :] - np.arange(len(beliefs))[:, None]), 0)
    return _BeliefStep(jnp.asarray(chance, jnp.float32), jnp.asarray(weights, jnp.float32))


class Memory(NamedTuple):
    plan: Plan
    law: Any
    belief: Any
    planned: Any  # index of the open block's planned length


@struct.dataclass
class ReferenceOptimum(Agent[Memory]):
    """Acts from the table; told nothing but the constants of the scenario `reference`, which are public.

    Optimal there, up to the grid and to the episode's end, which the average-reward program does not see. Meant for no
    other scenario.
    """

    plan: Any = struct.field(doc="(beliefs,)")
    young: Any = struct.field(doc="(plans, beliefs)")
    ripe: Any = struct.field(doc="(plans, beliefs)")
    role: ClassVar[str] = "ceiling"

    @classmethod
    def load(cls, path: Path = TABLE) -> ReferenceOptimum:
        """The shipped table. Raises `ValueError` if the file was made for another grid."""
        content = json.loads(path.read_text())
        if tuple(content["plans"]) != PLANS or not np.allclose(content["log_odds"], LOG_ODDS):
            raise ValueError(f"{path} is of another grid; rewrite it: python -m agents.oracle.decoy_reference --write")
        return cls(*(np.array(content[name], np.int32) for name in ("plan", "young", "ripe")))

    def init(self, key, env, params):
        known = strong(reference_params())
        storm = known.storm_dwell_s / (known.storm_dwell_s + known.calm_dwell_s)
        return Memory(make_plan(known), storm_law(known), storm, jnp.int32(0))

    def act(self, key, carry, obs, mask):
        reading = decode(obs)
        first = reading.time_left > 1 - 1e-6
        law = jnp.where(reading.event, carry.law[..., 1], carry.law[..., 0])
        joint = jnp.stack([1 - carry.belief, carry.belief]) @ law
        belief = jnp.where(first, carry.belief, joint[1] / jnp.sum(joint))
        odds = jnp.log(belief) - jnp.log1p(-belief)
        at = jnp.round((odds - LOG_ODDS[0]) / (LOG_ODDS[1] - LOG_ODDS[0])).astype(jnp.int32)
        at = jnp.clip(at, 0, len(LOG_ODDS) - 1)
        plan, young, ripe = (jnp.asarray(x) for x in (self.plan, self.young, self.ripe))
        age = reading.block_slices
        close = (age > 0) & ((age < young[carry.planned, at]) | (age >= ripe[carry.planned, at]))
        planned = jnp.where(close | (age == 0), plan[at], carry.planned)
        slices = jnp.asarray(PLANS, jnp.float32)[planned]
        action = make_action(carry.plan, reading, reading.nominal_loss_db, close, slices)
        return action, carry._replace(belief=belief, planned=planned)


@struct.dataclass
class KnownHazardBayesRule(EventBayesRule):
    """The practice rule `EventBayesRule`, told the constants of the scenario `reference`: how close a rule comes."""

    patience: Any = struct.field(1.0, low=0.0, doc="see plan_block")

    def start(self, params):
        return super().start(strong(reference_params()))


def compare(episodes: int, seed: int) -> None:
    """Print the optimum's return a slice and the Bayes rule's paired difference to it, with 95 % intervals."""
    env = DecoyBlock(scenario="reference")
    agents = (ReferenceOptimum.load(), KnownHazardBayesRule())
    best, rule = (evaluate(env, agent, episodes, seed).returns / 720 for agent in agents)
    width = 1.96 / np.sqrt(episodes)
    print(f"optimum    {best.mean():.4f} +- {width * best.std(ddof=1):.4f}")
    gain = (rule - best) / best.mean()
    print(f"Bayes rule {gain.mean():+.2%} +- {width * gain.std(ddof=1):.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    parser.add_argument("--evaluate", type=int, metavar="EPISODES", help="play it and the Bayes rule on the scenario")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.evaluate:
        compare(args.evaluate, args.seed)
        return
    policy = solve()
    print(f"long-run optimum: {policy.key_per_slice:.4f} of the key per slice of a 300 s block")
    if args.write:
        tables = {name: np.asarray(getattr(policy, name)).tolist() for name in ("plan", "young", "ripe")}
        content = {"plans": list(PLANS), "log_odds": list(LOG_ODDS), "key_per_slice": policy.key_per_slice, **tables}
        TABLE.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
