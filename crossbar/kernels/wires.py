"""Voltages in an array with resistive wires, by conjugate gradients on its word lines.

The nodes of word lines w and of bit lines b obey Mw w - D b = f and Mb b - D w = h: Mw and Mb are tridiagonal along a
line, wires and cells together, D holds the cells, f and h what the ends of the lines are driven with. Bit lines are
eliminated exactly, b = Mb^-1 (D w + h), and the word lines without their bit lines, Mw, precondition what is left: its
eigenvalues lie between 0 and 1 and gather at 1, the more so the smaller the loss in the wires.

Arrays are (m, n), word lines by bit lines; conductances are in siemens. Pivots are written as what a node is
connected to beyond the wire ahead, so that they are sums of positive numbers.
"""

from __future__ import annotations

import numpy as np

from .compiled import kernel


@kernel(error_model="numpy")
def factor_bit_lines(g, sb, ib):
    """Inverse pivots of Mb, from the top, into ib.

    g: cells. sb (m + 1,): wires along a bit line, the first and last of them to what is outside, 0 where it ends.
    """
    m, n = g.shape
    beyond = np.full(n, sb[0])
    for i in range(m):
        for j in range(n):
            x = beyond[j] + g[i, j]
            ib[i, j] = 1.0 / (x + sb[i + 1])
            beyond[j] = x * ib[i, j] * sb[i + 1]


@kernel(error_model="numpy")
def factor_word_lines(g, sw, iw):
    """Inverse pivots of Mw, from the left, into iw; sw (n + 1,) as sb of `factor_bit_lines`."""
    m, n = g.shape
    for i in range(0, m - 3, 4):  # four at a time, so that one need not wait for its own last step
        g0, g1, g2, g3 = g[i], g[i + 1], g[i + 2], g[i + 3]
        p0, p1, p2, p3 = iw[i], iw[i + 1], iw[i + 2], iw[i + 3]
        x0 = x1 = x2 = x3 = sw[0]
        for j in range(n):
            wire = sw[j + 1]
            x0, x1, x2, x3 = x0 + g0[j], x1 + g1[j], x2 + g2[j], x3 + g3[j]
            p0[j], p1[j], p2[j], p3[j] = 1.0 / (x0 + wire), 1.0 / (x1 + wire), 1.0 / (x2 + wire), 1.0 / (x3 + wire)
            x0, x1, x2, x3 = x0 * p0[j] * wire, x1 * p1[j] * wire, x2 * p2[j] * wire, x3 * p3[j] * wire
    for i in range(m // 4 * 4, m):
        x = sw[0]
        for j in range(n):
            x += g[i, j]
            iw[i, j] = 1.0 / (x + sw[j + 1])
            x *= iw[i, j] * sw[j + 1]


@kernel(error_model="numpy")
def solve_word_lines(r, iw, sw, z):
    """z = Mw^-1 r, four word lines at a time."""
    m, n = r.shape
    for i in range(0, m - 3, 4):
        r0, r1, r2, r3 = r[i], r[i + 1], r[i + 2], r[i + 3]
        p0, p1, p2, p3 = iw[i], iw[i + 1], iw[i + 2], iw[i + 3]
        z0, z1, z2, z3 = z[i], z[i + 1], z[i + 2], z[i + 3]
        a0 = a1 = a2 = a3 = 0.0
        for j in range(n):
            wire = sw[j]
            a0 = p0[j] * r0[j] + wire * p0[j] * a0
            a1 = p1[j] * r1[j] + wire * p1[j] * a1
            a2 = p2[j] * r2[j] + wire * p2[j] * a2
            a3 = p3[j] * r3[j] + wire * p3[j] * a3
            z0[j], z1[j], z2[j], z3[j] = a0, a1, a2, a3
        for j in range(n - 2, -1, -1):
            wire = sw[j + 1]
            a0 = z0[j] + wire * p0[j] * a0
            a1 = z1[j] + wire * p1[j] * a1
            a2 = z2[j] + wire * p2[j] * a2
            a3 = z3[j] + wire * p3[j] * a3
            z0[j], z1[j], z2[j], z3[j] = a0, a1, a2, a3
    for i in range(m // 4 * 4, m):
        a = 0.0
        for j in range(n):
            a = iw[i, j] * r[i, j] + sw[j] * iw[i, j] * a
            z[i, j] = a
        for j in range(n - 2, -1, -1):
            a = z[i, j] + sw[j + 1] * iw[i, j] * a
            z[i, j] = a


@kernel(error_model="numpy")
def pass_down(g, w, ib, sb, i, b):
    """One step down of b = Mb^-1 D w: row i of b becomes the current that it passes on."""
    wire = sb[i]
    if i == 0:
        for j in range(b.shape[1]):
            b[i, j] = g[i, j] * w[i, j]
    else:
        for j in range(b.shape[1]):
            b[i, j] = g[i, j] * w[i, j] + wire * ib[i - 1, j] * b[i - 1, j]


@kernel(error_model="numpy")
def pass_up(ib, sb, i, b):
    """One step back: row i of b becomes voltages."""
    wire = sb[i + 1]
    if i == b.shape[0] - 1:
        for j in range(b.shape[1]):
            b[i, j] *= ib[i, j]
    else:
        for j in range(b.shape[1]):
            b[i, j] = ib[i, j] * (b[i, j] + wire * b[i + 1, j])


@kernel(error_model="numpy")
def solve_bit_lines(g, w, ib, sb, u, b):
    """b = Mb^-1 (D w + h) where the ends of the bit lines are held at u (n,)."""
    m = b.shape[0]
    for i in range(m):
        pass_down(g, w, ib, sb, i, b)
        if i == 0:
            b[i] += sb[0] * u
        if i == m - 1:
            b[i] += sb[m] * u
    for i in range(m - 1, -1, -1):
        pass_up(ib, sb, i, b)


@kernel(error_model="numpy")
def left_over(g, sw, v, w, b, r):
    """r = f - Mw w + D b for word lines driven with v (m,)."""
    m, n = r.shape
    for i in range(m):
        for j in range(n):
            r[i, j] = g[i, j] * (b[i, j] - w[i, j])
        r[i, 0] += sw[0] * (v[i] - w[i, 0])
        r[i, n - 1] += sw[n] * (v[i] - w[i, n - 1])
        for j in range(1, n):
            current = sw[j] * (w[i, j - 1] - w[i, j])
            r[i, j] += current
            r[i, j - 1] -= current


@kernel(error_model="numpy")
def product(x, y, sums):
    """Sum of x y, added up column by column in sums (n,)."""
    sums[:] = 0.0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            sums[j] += x[i, j] * y[i, j]
    return sums.sum()


@kernel(error_model="numpy")
def move(alpha, beta, z, p, w):
    """w += alpha p, then p = z + beta p."""
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            w[i, j] += alpha * p[i, j]
            p[i, j] = z[i, j] + beta * p[i, j]


@kernel(error_model="numpy")
def curvature(beta, r, p, g, b, s, sums):
    """s = r + beta s, which is Mw p; the sum of p (s - g b)."""
    sums[:] = 0.0
    for i in range(s.shape[0]):
        for j in range(s.shape[1]):
            s[i, j] = r[i, j] + beta * s[i, j]
            sums[j] += p[i, j] * (s[i, j] - g[i, j] * b[i, j])
    return sums.sum()


@kernel(error_model="numpy")
def reduce_left_over(alpha, s, g, b, r):
    """r -= alpha (s - g b)."""
    for i in range(r.shape[0]):
        for j in range(r.shape[1]):
            r[i, j] -= alpha * (s[i, j] - g[i, j] * b[i, j])


@kernel(error_model="numpy")
def iterate(g, wires, pivots, tolerance, most, w, b, work):
    """Conjugate gradients: add to w what takes away the currents r left over at its nodes; the number of iterations.

    wires = sw, sb; pivots = iw, ib; work = r and three arrays more; b is room. Iterations end when the error is the
    part `tolerance` of what it was; -1 if `most` do not get there.
    """
    (sw, sb), (iw, ib) = wires, pivots
    r, z, p, s = work  # z = Mw^-1 r, p the direction, s = Mw p
    p[:] = 0.0
    s[:] = 0.0
    sums = np.empty(g.shape[1])
    before, alpha, goal, done = 1.0, 0.0, 0.0, -1
    for k in range(most):
        solve_word_lines(r, iw, sw, z)
        now = product(r, z, sums)
        if k == 0:
            goal = now * tolerance * tolerance
        if now <= goal:
            done = k
            break
        beta = now / before if k > 0 else 0.0
        before = now
        move(alpha, beta, z, p, w)
        for i in range(g.shape[0]):
            pass_down(g, p, ib, sb, i, b)
        for i in range(g.shape[0] - 1, -1, -1):
            pass_up(ib, sb, i, b)
        alpha = now / curvature(beta, r, p, g, b, s, sums)
        reduce_left_over(alpha, s, g, b, r)
    move(alpha, 0.0, z, p, w)
    return done


@kernel(error_model="numpy")
def solve(g, wires, pivots, drive, tolerance, most, nodes, work):
    """Node voltages for word lines driven with v (m,) and bit lines held at u (n,); the number of iterations.

    drive = v, u in volts; nodes = word, bit, which come out; work: four arrays. The rest is as in `iterate`, which
    starts from w = v.
    """
    (sw, sb), (_, ib), (v, u), (w, b) = wires, pivots, drive, nodes
    for i in range(g.shape[0]):
        w[i] = v[i]
    solve_bit_lines(g, w, ib, sb, u, b)
    left_over(g, sw, v, w, b, work[0])
    done = iterate(g, wires, pivots, tolerance, most, w, b, work)
    solve_bit_lines(g, w, ib, sb, u, b)
    return done


@kernel(error_model="numpy")
def solve_inputs(g, sw, sb, drivers, senses, tolerance, most, room, nodes, currents):
    """`solve` for drivers (p, m) and sense amplifiers (p, n), one input after another.

    room (6, m, n); nodes (2, p, m, n) of word and of bit lines, or (2, 1, m, n) for the last input alone; currents
    (p, n) of the cells of each bit line. Returns the fewest iterations that an input took, -1 if one did not get there.
    """
    pivots, work = (room[0], room[1]), (room[2], room[3], room[4], room[5])
    word, bit = nodes[0], nodes[1]
    factor_word_lines(g, sw, pivots[0])
    factor_bit_lines(g, sb, pivots[1])
    fewest = most
    for k in range(len(drivers)):
        w, b = word[k % len(word)], bit[k % len(bit)]
        done = solve(g, (sw, sb), pivots, (drivers[k], senses[k]), tolerance, most, (w, b), work)
        fewest = min(fewest, done)
        currents[k] = 0.0
        for i in range(g.shape[0]):
            for j in range(g.shape[1]):
                currents[k, j] += g[i, j] * (w[i, j] - b[i, j])
    return fewest


@kernel(error_model="numpy")
def correct(g, wires, pivots, wrong, tolerance, most, nodes, work):
    """Changes of node voltages that currents into the nodes make, wrong = those of word and of bit lines (m, n)."""
    (_, sb), (_, ib), (w, b) = wires, pivots, nodes
    m = g.shape[0]
    into_word, into_bit = wrong
    w[:] = 0.0
    for turn in range(2):  # bit lines without, then with the change of the word lines
        for i in range(m):
            pass_down(g, w, ib, sb, i, b)
            b[i] += into_bit[i]
        for i in range(m - 1, -1, -1):
            pass_up(ib, sb, i, b)
        if turn == 0:
            work[0][:] = into_word + g * b
            done = iterate(g, wires, pivots, tolerance, most, w, b, work)
    return done


@kernel(error_model="numpy")
def resistances(g, wire, z):
    """z (lines, nodes): from a node of a line to 0 V, by way of its wires (nodes + 1,) and all cells g but its own."""
    lines, nodes = g.shape
    for i in range(lines):
        x = wire[0]
        for j in range(nodes):
            z[i, j] = x
            x += g[i, j]
            x *= wire[j + 1] / (x + wire[j + 1])
        x = wire[nodes]
        for j in range(nodes - 1, -1, -1):
            z[i, j] = 1.0 / (z[i, j] + x)
            x += g[i, j]
            x *= wire[j] / (x + wire[j])


@kernel(error_model="numpy")
def own_voltages(g, z, wire, out):
    """Voltages across the cells g of lines whose ends are at 1 V, behind each cell a resistance z to 0 V."""
    lines, nodes = g.shape
    pivots = np.empty(nodes)
    for i in range(lines):
        x, current = wire[0], wire[0]
        for j in range(nodes):
            x += g[i, j] / (1.0 + g[i, j] * z[i, j])
            pivots[j] = 1.0 / (x + wire[j + 1])
            out[i, j] = current
            x *= pivots[j] * wire[j + 1]
            current *= pivots[j] * wire[j + 1]
        voltage = 1.0
        for j in range(nodes - 1, -1, -1):
            voltage = pivots[j] * (out[i, j] + wire[j + 1] * voltage)
            out[i, j] = voltage / (1.0 + g[i, j] * z[i, j])
