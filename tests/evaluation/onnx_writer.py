"""Just enough of the ONNX wire format to write small graphs, because the tests do without the `onnx` package.

Field numbers: onnx/onnx.proto, ModelProto and below.
"""

from __future__ import annotations

import numpy as np

FLOAT, INT64, BOOL = 1, 7, 9


def _varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def node(op: str, inputs: list[str], output: str, **integers: int) -> bytes:
    body = b"".join(_bytes(1, name) for name in inputs) + _bytes(2, output) + _bytes(4, op)
    for name, value in integers.items():
        body += _bytes(5, _bytes(1, name) + _int(3, value) + _int(20, 2))
    return body


def constant(name: str, array: np.ndarray) -> bytes:
    body = b"".join(_int(1, n) for n in array.shape) + _int(2, FLOAT) + _bytes(8, name)
    return body + _bytes(9, array.astype("<f4").tobytes())


def value(name: str, width: int | None, kind: int = FLOAT) -> bytes:
    dims = _bytes(1, _bytes(2, "batch")) + (b"" if width is None else _bytes(1, _int(1, width)))
    return _bytes(1, name) + _bytes(2, _bytes(1, _int(1, kind) + _bytes(2, dims)))


def model(nodes: list[bytes], constants: list[bytes], inputs: list[bytes], outputs: list[bytes]) -> bytes:
    graph = b"".join(_bytes(1, n) for n in nodes) + _bytes(2, "policy") + b"".join(_bytes(5, c) for c in constants)
    graph += b"".join(_bytes(11, i) for i in inputs) + b"".join(_bytes(12, o) for o in outputs)
    return _int(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _int(2, 13))
