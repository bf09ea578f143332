"""Trained networks on simulated analog crossbars: see `mho.map`, `mho.vote`, `mho.Hardware`.

The public names are imported at their first use (PEP 562), so that `import mho` loads neither torch nor numba.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .moved import watch

if TYPE_CHECKING:
    from . import crossbar, devices, importing, mapping, models
    from .crossbar.hardware import Hardware
    from .crossbar.max_memory import limits
    from .dask_workers import on_workers
    from .explorer import view
    from .mapping.analog_matrix import AnalogMatrix, matrix
    from .mapping.architecture.chain import Stages
    from .mapping.architecture.schedule import Schedule, schedule
    from .mapping.checkpoints.factories import build_model
    from .mapping.checkpoints.networks import load_model
    from .mapping.chip import Chip
    from .mapping.coding import coded
    from .mapping.convert import map
    from .mapping.explaining.explain import explain
    from .mapping.explaining.explanation import Explanation
    from .mapping.reduce import Reduction, reduce
    from .mapping.saved.load import load
    from .mapping.trainable.trainable import trainable
    from .mapping.voting.adaptive import AdaptiveResult, adaptive_vote
    from .mapping.voting.votes import VoteResult, vote
    from .models.noisy import NoisyLayers, noisy
    from .sweeps.optimize import optimize
    from .sweeps.optimum import Optimum
    from .sweeps.run import sweep

    __version__: str

__all__ = [
    "AdaptiveResult",
    "AnalogMatrix",
    "Chip",
    "Explanation",
    "Hardware",
    "NoisyLayers",
    "Optimum",
    "Reduction",
    "Schedule",
    "Stages",
    "VoteResult",
    "__version__",
    "adaptive_vote",
    "build_model",
    "coded",
    "crossbar",
    "devices",
    "explain",
    "importing",
    "limits",
    "load",
    "load_model",
    "map",
    "mapping",
    "matrix",
    "models",
    "noisy",
    "on_workers",
    "optimize",
    "reduce",
    "schedule",
    "sweep",
    "trainable",
    "view",
    "vote",
]

_FOLDERS = ("crossbar", "devices", "importing", "mapping", "models")
_HOMES = {
    "AdaptiveResult": ".mapping.voting.adaptive",
    "AnalogMatrix": ".mapping.analog_matrix",
    "Chip": ".mapping.chip",
    "Explanation": ".mapping.explaining.explanation",
    "Hardware": ".crossbar.hardware",
    "NoisyLayers": ".models.noisy",
    "Optimum": ".sweeps.optimum",
    "Reduction": ".mapping.reduce",
    "Schedule": ".mapping.architecture.schedule",
    "Stages": ".mapping.architecture.chain",
    "VoteResult": ".mapping.voting.votes",
    "adaptive_vote": ".mapping.voting.adaptive",
    "build_model": ".mapping.checkpoints.factories",
    "coded": ".mapping.coding",
    "explain": ".mapping.explaining.explain",
    "limits": ".crossbar.max_memory",
    "load": ".mapping.saved.load",
    "load_model": ".mapping.checkpoints.networks",
    "map": ".mapping.convert",
    "matrix": ".mapping.analog_matrix",
    "noisy": ".models.noisy",
    "on_workers": ".dask_workers",
    "optimize": ".sweeps.optimize",
    "reduce": ".mapping.reduce",
    "schedule": ".mapping.architecture.schedule",
    "sweep": ".sweeps.run",
    "trainable": ".mapping.trainable.trainable",
    "view": ".explorer",
    "vote": ".mapping.voting.votes",
}

watch()


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = metadata.version("mho")
    elif name in _FOLDERS:
        value = import_module(f".{name}", __name__)
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name], __name__), name)
    else:
        raise AttributeError(f"module 'mho' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
