"""Light, fibre, detectors, key rates, drift: pure functions of arrays, without a word of reinforcement learning.

Every function broadcasts, can be jitted, mapped and differentiated, and works in the precision it is given: exact in
float64, with a stated and tested error in float32. Rates and key lengths keep their sign until they are reported.

- `information`: entropies, repeaterless bounds. `decoy_bb84`: infinite data. `finite_key`: from counts to key.
- `accumulate`: counts pooled over a block. `sampling`: the noise of a step, count samplers.
- `fibre`, `interference`, `polarization`: hardware. `detectors`, `detector_presets`, `transmitter`: both ends.
- `drift`: how hardware moves. `phase_drift`, `temperature`, `pmd`, `raman`: what fibre does to light.
- `free_space`, `turbulence`, `satellite`: light through air. `light`: photons from power.
- `reconciliation`: what error correction costs. `optimum`: a maximum inside a compiled program.
- `privacy_amplification`: the hash, and what it costs. `attacks`: what the users see, what Eve gains.
- `networks`: pools of key, trusted relays, paths.
"""
