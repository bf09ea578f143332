"""Input codes taken apart: the digits of the pulses, their squares, and sums over the word lines of a row tile."""

from __future__ import annotations

import numpy as np
from numba import prange

from .compiled import kernel

f32, i32, u16 = np.float32, np.int32, np.uint16


@kernel()
def take_digit(codes, shift, base, out):
    """The signed digit (|code| // 2^shift) mod base, a power of two, of each input code."""
    places, mask = i32(shift), i32(base - 1)
    for m in range(codes.shape[0]):
        for i in range(codes.shape[1]):
            code = i32(codes[m, i])
            digit = (abs(code) >> places) & mask
            out[m, i] = -digit if code < 0 else digit


@kernel()
def keep_sign(digits, negative):
    """Digits of one sign, as magnitudes, in place: those of the other become 0."""
    for m in range(digits.shape[0]):
        for i in range(digits.shape[1]):
            digit = -digits[m, i] if negative else digits[m, i]
            digits[m, i] = max(digit, 0)


@kernel()
def look_up(digits, table, out):
    """out = what the table has for the magnitude of each digit, with its sign."""
    for m in range(digits.shape[0]):
        for i in range(digits.shape[1]):
            digit = i32(digits[m, i])
            value = table[abs(digit)]
            out[m, i] = -value if digit < 0 else value


@kernel()
def magnitudes(digits, signed, out):
    """out = the magnitude of each digit, or the digit itself if `signed`."""
    for m in range(digits.shape[0]):
        for i in range(digits.shape[1]):
            out[m, i] = digits[m, i] if signed else abs(digits[m, i])


@kernel()
def square(codes, integers, halve, out):
    """Squares of codes, or of integers half of them rounded up, which fit into int16 for codes up to 255.

    Both arrays are contiguous.
    """
    given, squares = codes.reshape(-1), out.reshape(-1)
    if integers and halve:
        for i in range(given.shape[0]):
            whole = u16(u16(given[i]) * u16(given[i]))
            squares[i] = u16(whole >> u16(1)) + u16(whole & u16(1))
    else:
        for i in range(given.shape[0]):
            squares[i] = given[i] * given[i]


@kernel(parallel=True)
def square_parallel(codes, integers, halve, parts, out):
    """`square` of flat arrays, in so many parts at once."""
    for k in prange(parts):
        a, b = codes.shape[0] * k // parts, codes.shape[0] * (k + 1) // parts
        square(codes[a:b], integers, halve, out[a:b])


@kernel()
def row_sums(digits, r0, r1, factor, out):
    """out (rows,) = factor times the sum of the digits of word lines r0..r1."""
    for m in range(digits.shape[0]):
        total = f32(0.0)
        for i in range(r0, r1):
            total += f32(digits[m, i])
        out[m] = total * factor


@kernel()
def row_squares(digits, r0, r1, integers, factor, out):
    """out (rows,) = factor times the sum of the squared digits of word lines r0..r1, exact for integers."""
    for m in range(digits.shape[0]):
        if integers:
            exact = 0
            for i in range(r0, r1):
                digit = i32(digits[m, i])
                exact += int(digit * digit)
            out[m] = f32(exact) * factor
        else:
            total = f32(0.0)
            for i in range(r0, r1):
                total += f32(digits[m, i]) * f32(digits[m, i])
            out[m] = total * factor
