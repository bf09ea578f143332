"""Inputs changed at random, in ways that leave their class: a new change at every epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def jitter(images: torch.Tensor, shift: float = 2.0, turn: float = 0.2, stretch: float = 0.1) -> torch.Tensor:
    """Pictures (n, c, h, w) turned (radians), stretched and shifted (pixels) at random, at most by these amounts."""
    offset = _even(images, len(images), 2, 1) * shift * 2 / images.shape[-1]
    theta = torch.cat([_turns(images, turn, stretch), offset], 2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def wobble(sequences: torch.Tensor, shift: float = 2.0, turn: float = 0.2, stretch: float = 0.1) -> torch.Tensor:
    """Sequences (n, steps, 2) of pen points, turned (radians), stretched along either axis and shifted (pixels).

    The middle of the image moves only by the shift. Pen-up markers and padding stay as they are.
    """
    n = len(sequences)
    middle = 14.5  # of coordinates from 1 to 28
    turned = (sequences - middle) @ _turns(sequences, turn, stretch) * (1 + _even(sequences, n, 1, 2) * stretch)
    moved = turned + middle + _even(sequences, n, 1, 2) * shift
    return torch.where((sequences > 0).all(2, keepdim=True), moved, sequences)


def crop_flip(images: torch.Tensor, shift: int = 4) -> torch.Tensor:
    """Pictures (n, c, h, w) shifted at random by up to `shift` pixels along either axis, and mirrored or not.

    Black comes in from the sides.
    """
    n, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4)
    where = images.device
    mirrored = torch.rand(n, 1, device=where) < 0.5
    column = torch.arange(width, device=where).expand(n, width)
    column = torch.where(mirrored, column.flip(1), column) + torch.randint(2 * shift + 1, (n, 1), device=where)
    row = torch.arange(height, device=where) + torch.randint(2 * shift + 1, (n, 1), device=where)
    sample = torch.arange(n, device=where)[:, None, None]
    return padded.movedim(1, -1)[sample, row[:, :, None], column[:, None, :]].movedim(-1, 1)


def _even(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Numbers evenly spread over [-1, 1]."""
    return torch.rand(shape, device=like.device) * 2 - 1


def _turns(like: torch.Tensor, turn: float, stretch: float) -> torch.Tensor:
    """Matrices (n, 2, 2) that turn and scale, for n = len(like)."""
    angle = _even(like, len(like)) * turn
    scale = 1 + _even(like, len(like)) * stretch
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


AUGMENTATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": torch.clone,
    "jitter": jitter,
    "wobble": wobble,
    "crop-flip": crop_flip,
}
