"""Training through a chip: layers whose forward is a fresh chip each step, with gradients through its physics.

`trainable.py` puts such layers into a network. `layer.py` is one, `expanded.py` a recurrent layer or attention made of
some, `session.py` says which chip a step has and lets ranges follow the data.

There are two ways to compute one. On a CPU `programming.py` makes cells and `fused.py` reads them, as functions with
gradients of their own, on the kernels of `crossbar/kernels/training.py`. Elsewhere, and for gradients through the
variance of noise, `cells.py` makes cells as a differentiable expression, which `mapping/torch_backend` reads.

Ranges of converters are those of the calibration, follow the data, or are trained (`learned.py`); `ranges.py` keeps
them and hands them to `mho.map`.
"""
