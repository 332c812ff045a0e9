"""Key routing for PettingZoo: a preview, not yet among the registered tasks (its load is still to be set)."""

from qkd_gym.pettingzoo import faces_of

parallel_env, env, raw_env = faces_of("qkd_gym.envs.network.key_routing:KeyRouting")
