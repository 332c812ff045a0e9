"""Quantum key distribution as reinforcement-learning environments.

Importing the package registers its tasks with Gymnasium and does nothing else: no JAX backend starts.
"""

from qkd_gym.registration import TASKS, make, register_with_gymnasium

__version__ = "0.1.0"
__all__ = ["TASKS", "__version__", "make"]

register_with_gymnasium()
