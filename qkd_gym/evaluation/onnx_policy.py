"""Policies as ONNX graphs, run by onnxruntime on one core: whatever an outsider trained, without their code.

Inputs by name, leading axis the batch: ``obs`` float32 (required); ``mask`` bool, float or integer; ``state`` float32,
zero at the reset. Outputs by name: ``action``, or ``logits`` of a Discrete space (the largest legal one is taken);
``next_state`` where there is a state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from qkd_gym.envs.core import Environment
from qkd_gym.evaluation.policy_file import PolicyFileError

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(bool)": np.bool_,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxPolicy:
    """A `VectorPolicy` from an ``.onnx`` file.

    Raises:
        PolicyFileError: the file is no ONNX graph, or its inputs and outputs are not those above.
    """

    role = "learned"

    def __init__(self, path: str | Path, env: Environment) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("ONNX policies need onnxruntime: pip install 'qkd-gym[evaluation]'") from error
        path = Path(path)
        if not path.is_file():
            raise PolicyFileError(f"{path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise PolicyFileError(f"{path}: onnxruntime refuses it ({str(error).splitlines()[0]})") from None
        self.label = path.stem
        self.path = path
        self._space = env.action_space()
        self._agents = len(env.agents)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._state: np.ndarray | None = None
        self._check()

    def start(self, num_envs: int) -> None:
        self._state = None
        if "state" in self._inputs:
            width = self._inputs["state"].shape[-1]
            self._state = np.zeros((num_envs * max(1, self._agents), int(width)), np.float32)

    def act(self, observations: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        lead = 1 + bool(self._agents)  # agents of one episode are rows of the batch
        batch = observations.shape[:lead]
        feed: dict[str, Any] = {"obs": observations.reshape(-1, *observations.shape[lead:])}
        flat_mask = None if masks is None else masks.reshape(-1, *masks.shape[lead:])
        if "mask" in self._inputs:
            if flat_mask is None:
                raise PolicyFileError(f"{self.path}: the graph wants a mask, but the task has none")
            feed["mask"] = flat_mask.astype(_DTYPES.get(self._inputs["mask"].type, np.float32))
        if self._state is not None:
            feed["state"] = self._state
        try:
            out = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        except Exception as error:
            raise PolicyFileError(f"{self.path}: the graph failed ({str(error).splitlines()[0]})") from None
        if self._state is not None:
            self._state = np.asarray(out["next_state"])
        if "action" in out:
            actions = np.asarray(out["action"])
        else:
            logits = np.asarray(out["logits"])
            legal = logits if flat_mask is None else np.where(flat_mask, logits, -np.inf)
            actions = legal.argmax(-1) + int(getattr(self._space, "start", 0))
        return actions.reshape(*batch, *(self._space.shape or ()))

    def _check(self) -> None:
        names = ", ".join(self._inputs)
        if "obs" not in self._inputs or not set(self._inputs) <= {"obs", "mask", "state"}:
            raise PolicyFileError(f"{self.path}: its inputs are {names}; they must be obs and, if used, mask and state")
        if not {"action", "logits"} & set(self._outputs):
            raise PolicyFileError(
                f"{self.path}: its outputs are {', '.join(self._outputs)}; it must have action or logits"
            )
        if "action" not in self._outputs and not isinstance(self._space, gym.spaces.Discrete):
            raise PolicyFileError(f"{self.path}: logits fit Discrete actions only; give the output 'action'")
        if "state" in self._inputs:
            width = self._inputs["state"].shape[-1]
            if "next_state" not in self._outputs or not isinstance(width, int):
                raise PolicyFileError(f"{self.path}: a state of fixed width needs the output next_state")
