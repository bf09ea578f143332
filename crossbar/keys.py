"""Keys of the random-number streams: every use of randomness has its own, so none shares numbers with another."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Literal

import numpy as np

Key = tuple[Any, Any]  # two np.uint32
Purpose = Literal["program", "stuck", "drift", "read", "output"]


def stream_key(seed: int, purpose: Purpose, layer: str, *place: int) -> Key:
    """The Philox key of one stream.

    Args:
        seed: the chip's seed.
        purpose: what the numbers are for.
        layer: the layer's name.
        place: what else tells streams apart: group, copy of the chip, call within one inference.
    """
    text = "|".join([str(seed), purpose, layer, *map(str, place)])
    word = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
    return np.uint32(word & 0xFFFFFFFF), np.uint32(word >> 32)
