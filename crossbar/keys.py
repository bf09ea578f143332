"""Keys of the random-number streams: every use of randomness has its own, so none shares numbers with another."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from .kernels.philox import round_keys

Key = np.ndarray[Any, Any]  # the keys of Philox's rounds
Purpose = Literal[
    "program", "device", "stuck", "word_line", "bit_line", "drift", "read", "slow", "output", "frozen", "adc", "mirror"
]


@lru_cache(maxsize=4096, typed=True)  # a matrix is programmed block by block, with the same few keys
def stream_key(seed: int, purpose: Purpose, layer: str, *place: int) -> Key:
    """The Philox key of one stream, as its rounds use it.

    Args:
        seed: the chip's seed.
        purpose: what the numbers are for.
        layer: the layer's name.
        place: what else tells streams apart: group, copy of the chip, call within one inference.

    Returns:
        The keys, which nobody may write to.
    """
    text = "|".join([str(seed), purpose, layer, *map(str, place)])
    return round_keys(int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little"))
