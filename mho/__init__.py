"""Trained networks on simulated analog crossbars: see `mho.map`, `mho.vote`, `mho.Hardware`.

The public names are imported at their first use (PEP 562), so that `import mho` loads neither torch nor numba.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from .moved import watch

if TYPE_CHECKING:
    from . import crossbar, devices, mapping, models
    from .crossbar.hardware import Hardware
    from .mapping.architecture.chain import Stages
    from .mapping.architecture.schedule import Schedule, schedule
    from .mapping.chip import Chip
    from .mapping.convert import map
    from .mapping.explaining.explain import explain
    from .mapping.explaining.explanation import Explanation
    from .mapping.load import load
    from .mapping.reduce import Reduction, reduce
    from .mapping.voting.adaptive import AdaptiveResult, adaptive_vote
    from .mapping.voting.votes import VoteResult, vote
    from .sweeps.optimize import optimize
    from .sweeps.optimum import Optimum
    from .sweeps.run import sweep

    __version__: str

__all__ = [
    "AdaptiveResult",
    "Chip",
    "Explanation",
    "Hardware",
    "Optimum",
    "Reduction",
    "Schedule",
    "Stages",
    "VoteResult",
    "__version__",
    "adaptive_vote",
    "crossbar",
    "devices",
    "explain",
    "load",
    "map",
    "mapping",
    "models",
    "optimize",
    "reduce",
    "schedule",
    "sweep",
    "vote",
]

_FOLDERS = ("crossbar", "devices", "mapping", "models")
_HOMES = {
    "AdaptiveResult": ".mapping.voting.adaptive",
    "Chip": ".mapping.chip",
    "Explanation": ".mapping.explaining.explanation",
    "Hardware": ".crossbar.hardware",
    "Optimum": ".sweeps.optimum",
    "Reduction": ".mapping.reduce",
    "Schedule": ".mapping.architecture.schedule",
    "Stages": ".mapping.architecture.chain",
    "VoteResult": ".mapping.voting.votes",
    "adaptive_vote": ".mapping.voting.adaptive",
    "explain": ".mapping.explaining.explain",
    "load": ".mapping.load",
    "map": ".mapping.convert",
    "optimize": ".sweeps.optimize",
    "reduce": ".mapping.reduce",
    "schedule": ".mapping.architecture.schedule",
    "sweep": ".sweeps.run",
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
