"""Effective conductances of an array with resistive wires, by nested dissection: exact, O(N^3), sums in a fixed order.

A block of the array is known by its ports: how the currents into them depend on their voltages, an admittance matrix.
The ports of a block are, in this order, L: left of the wire that enters each of its word lines; R: the last node of
each word line; T: the first node of each bit line; B: below the wire that leaves each bit line. Where the array ends, a
line is open and has no port there, or goes through one more wire to its driver or sense amplifier, which is the port.
Neighbours share ports: R of the one is L of the other, B is T. A block is made of two by adding their matrices and
eliminating what they share, down to columns of at most WIDE cells (George 1973, SIAM J. Numer. Anal. 10:345).

Admittance matrices are symmetric (the lower triangle is kept) and have entries of one sign off the diagonal. So nothing
cancels there, and currents that are small beside others keep their digits.
"""

from __future__ import annotations

import numpy as np

from .compiled import kernel
from .fused_tile import WIDE, subtract_tile

COLUMN, CAP, BESIDE, BELOW, BLOCK = range(5)  # steps of a dissection, and what is to be split into steps
DEEP = 256  # blocks that wait at the same time, at most: three for each time that an array is halved


@kernel(error_model="numpy")
def round_up(count):
    return (count + WIDE - 1) // WIDE * WIDE


@kernel(error_model="numpy")
def dissection(m, n):
    """The steps that make an array of m rows and n columns: (steps, 4) int64.

    (COLUMN, i0, i1, j) makes a block of the cells i0..i1 of a column, (CAP, i0, i1, 0) one of the right ends of these
    word lines. (BESIDE, 0, 0, 0) and (BELOW, 0, 0, 0) replace the last two blocks by their union, the second being to
    the right of the first or below it.
    """
    heights = (m + WIDE - 1) // WIDE
    steps = np.empty((2 * heights * (n + 1) - 1, 4), np.int64)
    waiting = np.empty((DEEP, 5), np.int64)  # blocks to be made, or how to merge the two made after
    waiting[0] = BLOCK, 0, m, 0, n
    tasks, count = 1, 0
    while tasks > 0:
        tasks -= 1
        kind, i0, i1, j0, j1 = waiting[tasks]
        a, b = i1 - i0, j1 - j0
        if kind != BLOCK:
            steps[count] = kind, 0, 0, 0
            count += 1
        elif b == 1 and a <= WIDE:
            steps[count] = COLUMN, i0, i1, j0
            count += 1
            if j1 == n:
                steps[count] = CAP, i0, i1, 0
                steps[count + 1] = BESIDE, 0, 0, 0
                count += 2
        elif b > a or a <= WIDE:
            half = j0 + (round_up((b + 1) // 2) if b > WIDE else b // 2)
            waiting[tasks] = BESIDE, 0, 0, 0, 0
            waiting[tasks + 1] = BLOCK, i0, i1, half, j1
            waiting[tasks + 2] = BLOCK, i0, i1, j0, half
            tasks += 3
        else:
            half = i0 + round_up((a + 1) // 2)
            waiting[tasks] = BELOW, 0, 0, 0, 0
            waiting[tasks + 1] = BLOCK, half, i1, j0, j1
            waiting[tasks + 2] = BLOCK, i0, half, j0, j1
            tasks += 3
    return steps[:count]


@kernel(error_model="numpy")
def ports_of(step, right, top):
    """Numbers of ports (L, R, T, B) of a COLUMN or CAP, where lines have ports at the right and top ends or not."""
    kind, i0, i1, _ = step
    if kind == COLUMN:
        return i1 - i0, i1 - i0, 1 if i0 > 0 or top else 0, 1
    return i1 - i0, i1 - i0 if right else 0, 0, 0


@kernel(error_model="numpy")
def as_ports(row):
    return row[0], row[1], row[2], row[3]


@kernel(error_model="numpy")
def merged(kind, p, q):
    """Ports (L, R, T, B) of p and q merged."""
    if kind == BESIDE:
        return p[0], q[1], p[2] + q[2], p[3] + q[3]
    return p[0] + q[0], p[1] + q[1], p[2], q[3]


@kernel(error_model="numpy")
def size_of(ports):
    """Rows and columns of the matrix of a block, whole panels."""
    return round_up(ports[0] + ports[1] + ports[2] + ports[3])


@kernel(error_model="numpy")
def room(steps, right, top):
    """Numbers to store: of the blocks that wait, at most, and of the largest merge."""
    stack = np.empty((DEEP, 4), np.int64)
    count = used = most = largest = 0
    for k in range(len(steps)):
        kind = steps[k, 0]
        if kind <= CAP:
            new = ports_of(steps[k], right, top)
        else:
            count -= 2
            first, second = as_ports(stack[count]), as_ports(stack[count + 1])
            new = merged(kind, first, second)
            depth = round_up(first[1] if kind == BESIDE else first[3])
            largest = max(largest, depth * (depth + size_of(new)))
        stack[count] = new
        count += 1
        used += size_of(new) ** 2
        most = max(most, used)
        if kind > CAP:
            used -= size_of(first) ** 2 + size_of(second) ** 2
    return most, largest


@kernel(error_model="numpy")
def add_shared(y, start, count, u):
    """Add the admittances between the ports from `start` on to the first columns of u, at and above the diagonal."""
    for c in range(count):
        for q in range(c + 1):
            u[c // WIDE, q, c % WIDE] += y[start + c, start + q]
    for c in range(0, count, WIDE):
        for q in range(c, min(c + WIDE, count)):
            for d in range(q - c):
                u[c // WIDE, q, d] = u[c // WIDE, c + d, q - c]


@kernel(error_model="numpy")
def take_kept(y, shared, depth, count, kept, u, out):
    """Copy what a block keeps: with the shared ports into u behind `depth` columns, among itself into out.

    kept (ranges, 3): first port, first port of the merged block, number of ports; in order of both.
    """
    for s in range(len(kept)):
        first, place, length = kept[s]
        if first < shared:
            for q in range(count):
                for c in range(length):
                    at = depth + place + c
                    u[at // WIDE, q, at % WIDE] = y[shared + q, first + c]
        else:
            for c in range(length):
                at = depth + place + c
                part = u[at // WIDE]
                for q in range(count):
                    part[q, at % WIDE] = y[first + c, shared + q]
        for t in range(s + 1):
            second, to, width = kept[t]
            for c in range(length):
                for d in range(c + 1 if s == t else width):
                    out[place + c, to + d] = y[first + c, second + d]


@kernel(error_model="numpy")
def eliminate(u, depth):
    """Rows [S, C] in panels u (panels, depth, WIDE) become [R, R^-T C] with R^T R = S; S is positive definite."""
    inverses = np.empty(WIDE)
    for k in range(0, depth, WIDE):
        pivot = k // WIDE
        for p in range(pivot, len(u)):
            subtract_tile(u[p, k : k + WIDE], u[pivot, :k], u[p, :k])
        block = u[pivot, k : k + WIDE]
        for p in range(pivot, len(u)):
            part = u[p, k : k + WIDE]
            for r in range(WIDE):
                if p == pivot:
                    inverses[r] = 1.0 / np.sqrt(block[r, r])
                inverse = inverses[r]
                for c in range(WIDE):
                    part[r, c] *= inverse
                for q in range(r + 1, WIDE):
                    factor = block[r, q]
                    for c in range(WIDE):
                        part[q, c] -= factor * part[r, c]


@kernel(error_model="numpy")
def merge(kind, y1, p, y2, q, last, u, out):
    """The matrix of two blocks with ports p and q, `kind` to one another, into out, with room in u (numbers).

    Of the `last` merge only the rows of T and B and the columns of L and R are right.
    """
    kept = np.empty((2, 3, 3), np.int64)
    l1, r1, t1, b1 = p
    l2, r2, t2, b2 = q
    if kind == BESIDE:
        count, shared1, shared2 = r1, l1, 0
        top, bottom = l1 + r2, l1 + r2 + t1 + t2
        kept[0, 0], kept[0, 1], kept[0, 2] = (0, 0, l1), (l1 + r1, top, t1), (l1 + r1 + t1, bottom, b1)
        kept[1, 0], kept[1, 1], kept[1, 2] = (l2, l1, r2), (l2 + r2, top + t1, t2), (l2 + r2 + t2, bottom + b1, b2)
    else:
        count, shared1, shared2 = b1, l1 + r1 + t1, l2 + r2
        right, top = l1 + l2, l1 + l2 + r1 + r2
        kept[0, 0], kept[0, 1], kept[0, 2] = (0, 0, l1), (l1, right, r1), (l1 + r1, top, t1)
        kept[1, 0], kept[1, 1], kept[1, 2] = (0, l1, l2), (l2, right + r1, r2), (l2 + r2 + t2, top + t1, b2)
    depth, size = round_up(count), out.shape[0]
    panels = u[: depth * (depth + size)].reshape((depth + size) // WIDE, depth, WIDE)
    panels[:] = 0.0
    out[:] = 0.0
    for k in range(count, depth):
        panels[k // WIDE, k, k % WIDE] = 1.0
    add_shared(y1, shared1, count, panels)
    add_shared(y2, shared2, count, panels)
    take_kept(y1, shared1, depth, count, kept[0], panels, out)
    take_kept(y2, shared2, depth, count, kept[1], panels, out)
    eliminate(panels, depth)
    x = panels[depth // WIDE :]
    ends = merged(kind, p, q)
    drivers = ends[0] + ends[1]
    for i in range(drivers // WIDE if last else 0, size // WIDE):
        for j in range(round_up(drivers) // WIDE if last else i + 1):
            subtract_tile(out[i * WIDE : (i + 1) * WIDE, j * WIDE :], x[i], x[j])


@kernel(error_model="numpy")
def bit_line(g, sb, i0, i1, work, out):
    """Admittances of the ports (word lines, T, B) of the cells i0..i1 of a column, into out (a + 2, a + 2)."""
    a = i1 - i0
    T, B = a, a + 1
    out[:] = 0.0
    p = i0 + 1 if i0 > 0 else 0  # nodes p..i1 are eliminated
    count = i1 - p
    above, below = sb[p], sb[i1]
    if i0 > 0:
        out[0, 0] = out[T, T] = g[i0]
        out[T, 0] = -g[i0]
    if count == 0:
        out[T, T] += below
        out[B, T] = -below
        out[B, B] = below
        return
    down, up = work[0], work[1]  # what a node is connected to, without the wire to the next node in that direction
    x = above
    for i in range(count):
        x += g[p + i]
        down[i] = x
        x *= sb[p + i + 1] / (x + sb[p + i + 1])
    x = below
    for i in range(count - 1, -1, -1):
        up[i] = x
        x += g[p + i]
        x *= sb[p + i] / (x + sb[p + i]) if i > 0 else 1.0
    for i in range(count):  # row i of the inverse, from the diagonal on
        z = 1.0 / (down[i] + up[i])
        row, gi = p - i0 + i, g[p + i]
        out[row, row] += gi - gi * z * gi
        if i == 0:
            out[T, T] += above - above * z * above
            out[T, row] -= above * z * gi
        for k in range(i + 1, count):
            z *= sb[p + k] / (sb[p + k] + g[p + k] + up[k])
            out[p - i0 + k, row] = -gi * z * g[p + k]
            if i == 0:
                out[T, p - i0 + k] -= above * z * g[p + k]
        out[B, row] = -gi * z * below
        if i == 0:
            out[B, T] = -above * z * below
    out[B, B] = below - below * z * below


@kernel(error_model="numpy")
def column(g, sw, sb, step, ports, line, work, cells, y):
    """The matrix of a COLUMN; line (m,), work and cells are room."""
    _, i0, i1, j = step
    a = i1 - i0
    for i in range(i0, i1):
        line[i] = g[i, j]
    bit_line(line, sb, i0, i1, work, cells)
    y[:] = 0.0
    wire = sw[j]
    for i in range(a):
        y[i, i] = wire
        y[a + i, i] = -wire
    for row in range(a + 2):
        if row != a or ports[2] > 0:
            to = a + row if row <= a else 2 * a + ports[2]
            for c in range(row + 1):
                if c != a or ports[2] > 0:
                    y[to, a + c if c <= a else to] = cells[row, c]
    for i in range(a):
        y[a + i, a + i] += wire


@kernel(error_model="numpy")
def cap(wire, ports, y):
    """The matrix of a CAP, the right ends of word lines: wires to drivers, or nothing."""
    y[:] = 0.0
    for i in range(ports[1]):
        y[i, i] = y[ports[0] + i, ports[0] + i] = wire
        y[ports[0] + i, i] = -wire


@kernel(error_model="numpy")
def effective(g, sw, sb):
    """Conductances (m, n) from each driver to each sense amplifier: currents are their transpose times the voltages.

    g (m, n): cells. sw (n + 1,): wires of every word line, from the left driver to the right one, 0 where there is
    none; sb (m + 1,): those of every bit line from the top to the bottom, the last not 0. All in siemens.
    """
    m, n = g.shape
    right, top = sw[n] > 0, sb[0] > 0
    steps = dissection(m, n)
    most, largest = room(steps, right, top)
    stack, u = np.empty(most), np.empty(largest)
    line, work, cells = np.empty(m), np.empty((2, WIDE)), np.empty((WIDE + 2, WIDE + 2))
    ports = np.empty((DEEP, 4), np.int64)
    count = used = 0
    for k in range(len(steps)):
        kind = steps[k, 0]
        if kind <= CAP:
            new = ports_of(steps[k], right, top)
            size = size_of(new)
            y = stack[used : used + size * size].reshape(size, size)
            if kind == COLUMN:
                column(g, sw, sb, steps[k], new, line, work, cells, y)
            else:
                cap(sw[n], new, y)
        else:
            count -= 2
            p, q = as_ports(ports[count]), as_ports(ports[count + 1])
            new = merged(kind, p, q)
            first, second, size = size_of(p), size_of(q), size_of(new)
            middle = used - second * second
            start = middle - first * first
            y = stack[used : used + size * size].reshape(size, size)
            y1, y2 = stack[start:middle].reshape(first, first), stack[middle:used].reshape(second, second)
            merge(kind, y1, p, y2, q, k == len(steps) - 1, u, y)
            if k < len(steps) - 1:
                stack[start : start + size * size] = stack[used : used + size * size]
            used = start
        used += size * size
        ports[count] = new
        count += 1
    return currents(y, new, m, n)


@kernel(error_model="numpy")
def currents(y, ports, m, n):
    """Conductances (m, n) from the ends of word lines, together, to the ends of bit lines."""
    out = np.zeros((m, n))
    left, right, top, _ = ports
    for end in range(4):
        start = 0 if end % 2 == 0 else left
        below = left + right + (top if end < 2 else 0)
        if (end % 2 == 1 and right == 0) or (end >= 2 and top == 0):
            continue
        for i in range(m):
            for j in range(n):
                out[i, j] -= y[below + j, start + i]
    return out
