"""The backends that networks are mapped with: those of `mho.crossbar.backends`, and that of torch operations."""

from __future__ import annotations

from ..crossbar.backend import Backend
from ..crossbar.backends import BACKENDS, backend_of
from .arrays import EXCHANGES
from .torch_backend.backend import Torch

BACKENDS.add("torch", Torch)


def backend_with_arrays(which: str | Backend) -> Backend:
    """The backend of a name, or the one given.

    Raises:
        ValueError: there is none of that name, or its arrays are of no kind that is known.
    """
    backend = backend_of(which)
    EXCHANGES[backend.kind]
    return backend
