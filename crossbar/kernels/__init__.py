"""Compiled kernels: functions on arrays and scalars only. Each has a plain numpy twin in `../backends/plain.py`."""
