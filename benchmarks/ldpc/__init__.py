"""Low-density parity-check codes for the reconciliation of sifted keys: built, decoded, and their failures counted.

`python -m benchmarks.ldpc` sweeps the frame error rate; the result ships as `qkd_gym/data/ldpc_fer.json` and is read by
`qkd_gym.physics.ldpc`.
"""
