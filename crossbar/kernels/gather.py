"""The rows of a matrix, taken from the inputs of a layer."""

from __future__ import annotations

from .compiled import kernel


@kernel()
def gather(x, geometry, start, stop, constant, out):
    """Rows start..stop of the matrix inputs into out (stop - start, rows): patches ordered (kd, kh, kw, channel).

    The word line behind the patch, if `out` has more columns, gets `constant`, and any further one 0.
    """
    _, lines, pixels = geometry.out
    positions = geometry.out[0] * lines * pixels
    kd, kh, kw = geometry.kernel
    channels = geometry.channels
    filled = kd * kh * kw * channels
    whole = geometry.dilation[2] == 1 and channels == x.shape[4]  # then a line of the patch is one run of x
    run = kw * channels if whole else channels
    runs = 1 if whole else kw
    per_pixel = x.shape[4]
    per_line = x.shape[3] * per_pixel
    per_plane = x.shape[2] * per_line
    flat = x.reshape(-1)
    n = start // positions
    p = start - n * positions
    oz = p // (lines * pixels)
    oy = p // pixels - oz * lines
    ox = p % pixels
    for r in range(stop - start):
        row = out[r]
        corner = (
            n * x.shape[1] * per_plane
            + oz * geometry.stride[0] * per_plane
            + oy * geometry.stride[1] * per_line
            + ox * geometry.stride[2] * per_pixel
            + geometry.first_channel
        )
        k = 0
        for a in range(kd):
            for b in range(kh):
                line = corner + a * geometry.dilation[0] * per_plane + b * geometry.dilation[1] * per_line
                for c in range(runs):
                    source = line + c * geometry.dilation[2] * per_pixel
                    taken, patch = flat[source : source + run], row[k : k + run]
                    for i in range(run):
                        patch[i] = taken[i]
                    k += run
        for i in range(filled, row.shape[0]):
            row[i] = constant if i == filled else 0
        ox += 1
        if ox == pixels:
            ox = 0
            oy += 1
            if oy == lines:
                oy = 0
                oz += 1
                if oz == geometry.out[0]:
                    oz = 0
                    n += 1
