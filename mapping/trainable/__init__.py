"""Training through a chip: layers whose forward is a fresh chip each step, with gradients through its physics.

`cells.py` programs weights into fresh cells as a differentiable function, `layer.py` reads them with the arithmetic of
`mapping/torch_backend`, `session.py` says which chip a step has and lets ranges follow the data, and `trainable.py`
puts such layers into a network.

Not done yet: recurrent layers and attention, wires with resistance, residual slices, ADCs that differ, slow noise,
scales of samples and tokens, ranges that are learned, clipping of weights and ramps of noise.
"""
