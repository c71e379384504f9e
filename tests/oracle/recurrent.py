"""LSTM and GRU step by step, with the hidden matrix reconstructed."""

import torch


def kron(a, c):
    """sum_s A_s (x) C_s, by torch.kron."""
    return sum(torch.kron(a[s], c[s]) for s in range(len(a)))


def _steps(frames, reverse):
    return reversed(range(frames)) if reverse else range(frames)


def lstm(gx, u, h, c, lengths=None, reverse=False, factor=1.0):
    """(out, h_n, c_n) of gx [T, B, 4 H]; a row stands still, and gives 0, from its length on."""
    out = [None] * len(gx)
    for t in _steps(len(gx), reverse):
        i, f, g, o = (gx[t] + (h * factor) @ u).chunk(4, -1)
        new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        new_h = o.sigmoid() * new_c.tanh()
        there = torch.full_like(h[:, :1], 1).bool() if lengths is None else (t < lengths)[:, None]
        h, c = torch.where(there, new_h, h), torch.where(there, new_c, c)
        out[t] = torch.where(there, new_h, 0.0)
    return torch.stack(out), h, c


def gru(gx, u, b_n, h, lengths=None, reverse=False, factor=1.0):
    """(out, h_n) of gx [T, B, 3 H]; the reset stands after the product if there is a b_n, else before."""
    hidden, out = h.shape[1], [None] * len(gx)
    u_r, u_z, u_n = u.split(hidden, 1)
    for t in _steps(len(gx), reverse):
        x_r, x_z, x_n = gx[t].split(hidden, 1)
        kept = h * factor
        r, z = (x_r + kept @ u_r).sigmoid(), (x_z + kept @ u_z).sigmoid()
        n = (x_n + (r * (kept @ u_n + b_n) if b_n is not None else (r * kept) @ u_n)).tanh()
        new = (1 - z) * n + z * h
        there = torch.full_like(h[:, :1], 1).bool() if lengths is None else (t < lengths)[:, None]
        h = torch.where(there, new, h)
        out[t] = torch.where(there, new, 0.0)
    return torch.stack(out), h
