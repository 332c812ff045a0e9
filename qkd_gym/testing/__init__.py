"""The conformance suite: put a task, ours or your own, through every promise of the contract.

from qkd_gym.testing import check_environment

def test_my_task():
    check_environment(MyTask())
"""

from qkd_gym.testing.conformance import PROMISES, ConformanceError, check_environment

__all__ = ["PROMISES", "ConformanceError", "check_environment"]
