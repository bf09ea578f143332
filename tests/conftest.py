"""The ground of all tests: two threads at most, no windows, the same random examples in every run."""

import os

for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "2"
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait by spinning are slow on a busy machine

from hypothesis import settings  # noqa: E402  (after the environment that libraries read when they are imported)

settings.register_profile("mho", deadline=None, derandomize=True)
settings.load_profile("mho")
