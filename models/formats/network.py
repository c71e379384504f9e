"""A matrix as a tensor network: cores, what they contract to, what that costs, and how they are fitted.

    y = x W,   W [M, N],   M = m_0 m_1 .., N = n_0 n_1 ..   (row-major: the first mode is the slowest)

A format is a list of cores, each with named indices: "i0" .. of the rows (input modes), "j0" .. of the columns (output
modes), anything else a bond. An index that two or more cores share is summed over. Everything here follows from these
names: the dense matrix, the Kronecker form, the count of parameters and of multiply-adds, the fit of one core at a time.

Every format lowers to one form. Cut into a left part, which holds the first input and the first output modes, and a
right part, with S the product of the bonds between them:

    W = sum_s A_s (x) C_s,   A [S, p, u],  C [S, q, v],  p q = M,  u v = N;      y = sum_s A_s^T X C_s,  x as X [p, q]

If the left part holds all inputs and the right all outputs this is W = P Q of rank S (u = q = 1).
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from dropfold.models.formats.fitting import as_tensor, orthonormal

Indices = tuple[str, ...]
Path = list[tuple[int, int]]
WIDTH = 100


class Kron(NamedTuple):
    """W = sum_s A_s (x) C_s with A [S, p, u] and C [S, q, v]."""

    a: Tensor
    c: Tensor

    def to_dense(self) -> Tensor:
        """W [p q, u v]."""
        (_, p, u), (_, q, v) = self.a.shape, self.c.shape
        return torch.einsum("spu,sqv->pquv", self.a, self.c).reshape(p * q, u * v)

    def macs(self) -> int:
        """Multiply-adds for one x."""
        return kron_macs(self.a.shape, self.c.shape)


def kron_macs(a: Sequence[int], c: Sequence[int]) -> int:
    """Multiply-adds for one x of factors [S, p, u] and [S, q, v], in the better order: X C_s first, or A_s^T X."""
    (s, p, u), (_, q, v) = a, c
    return s * min(p * q * v + p * u * v, p * q * u + u * q * v)


class Format(nn.Module):
    """A matrix W [M, N] held as the cores of a tensor network.

    Args:
        in_modes, out_modes: the factors of M and N.
        layout: the indices of each core, in the order of its dimensions.
        sizes: the size of each bond.
        left: which cores stand left of the cut of `lower`.
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    frames = False
    _lowered: tuple[list[Tensor], Kron, bool] | None = None  # of `lower_once`

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        layout: Sequence[Indices],
        sizes: dict[str, int],
        left: Iterable[int],
    ) -> None:
        super().__init__()
        self.in_modes, self.out_modes = (
            checked_modes("in_modes", in_modes),
            checked_modes("out_modes", out_modes),
        )
        self.layout = tuple(layout)
        self.sizes = sizes | named_modes(self.in_modes, self.out_modes)
        self.left = frozenset(left)
        self.cores = nn.ParameterList(
            torch.empty([self.sizes[index] for index in indices]) for indices in self.layout
        )
        self.error: float | None = None
        self._order: list[int] | None = None
        self._paths = self._found_paths()
        self.reset_parameters()

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N)."""
        return math.prod(self.in_modes), math.prod(self.out_modes)

    def reset_parameters(self, variance: float | None = None) -> None:
        """Draw W with entries of mean 0 and exactly this mean square (default 1 / M: unit inputs give unit outputs).

        Where the network is a tree (`frames`), all cores but the last are orthonormal and the last, a Gaussian, has all the
        scale; otherwise all are Gaussian with one common factor. Either way the scale is set by the norm of W itself.
        """
        rows, columns = self.shape
        wanted = (1 / rows if variance is None else variance) * rows * columns
        with torch.no_grad():
            for core in self.cores:
                nn.init.normal_(core)
            scaled = [self.cores[-1]] if self.frames else list(self.cores)
            for core in self.cores[:-1] if self.frames else ():
                core.copy_(orthonormal(core.reshape(-1, core.shape[-1])).reshape(core.shape))
            factor = (wanted / self.squared_norm()) ** (1 / (2 * len(scaled)))
            for core in scaled:
                core *= factor

    def to_dense(self) -> Tensor:
        """W [M, N], all cores contracted."""
        return self._contracted(range(len(self.cores)), self._physical()).reshape(self.shape)

    def lower(self) -> Kron:
        """W as a sum of Kronecker products; autograd goes through to the cores."""
        bonds, sides = self._cut()
        found = []
        for chosen, rows, columns in sides:
            if chosen:
                side = self._contracted(chosen, bonds + rows + columns)
                found.append(side.reshape(-1, self._size(rows), self._size(columns)))
            else:  # all stands on the other side
                found.append(self.cores[0].new_ones(1, 1, 1))
        return Kron(*found)

    def lower_once(self) -> Kron:
        """`lower`, but without autograd its result is kept until a core differs from a copy made then.

        Nothing is kept for a compiler, or inside torch.func, whose tensors end with the call.
        """
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        plain = all(isinstance(core, nn.Parameter) and core.is_cpu for core in self.cores)
        if traced or torch.is_grad_enabled() or len(self.cores) == 1 or not plain:
            return self.lower()
        inference = torch.is_inference_mode_enabled()  # whose tensors no autograd may meet later
        if self._lowered is not None:
            copies, kron, made_in = self._lowered
            if made_in == inference and all(map(_is_same, self.cores, copies)):
                return kron
        kron = self.lower()
        self._lowered = [core.detach().clone() for core in self.cores], kron, inference
        return kron

    def __getstate__(self) -> dict[str, Any]:
        """What is saved and copied: without what `lower_once` keeps."""
        return {name: value for name, value in super().__getstate__().items() if name != "_lowered"}

    def kron_shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """[S, p, u] and [S, q, v], the shapes of what `lower` gives, without contracting."""
        bonds, sides = self._cut()
        a, c = ((self._size(bonds), self._size(rows), self._size(columns)) for _, rows, columns in sides)
        return a, c

    def lowered_macs(self) -> int:
        """Multiply-adds for one x of what `lower` gives, without contracting."""
        return kron_macs(*self.kron_shapes())

    def absorb(self, x: Tensor, order: Sequence[int] | None = None) -> Tensor:
        """x W [n, N] of rows x [n, M], core by core in `order` or in the best one."""
        order = self.best_order() if order is None else order
        names: Indices = ("n", *self._rows())
        y = x.reshape(-1, *self.in_modes)
        done: set[int] = set()  # torch.compile knows no set[int]()
        for k in order:
            done.add(k)
            needed = self._open(set(names) | set(self.layout[k]), done)
            kept = tuple(i for i in dict.fromkeys(names + self.layout[k]) if i == "n" or i in needed)
            y, names = _einsum([y, self.cores[k]], [names, self.layout[k]], kept), kept
        return y.permute([names.index(i) for i in ("n", *self._columns())]).reshape(-1, self.shape[1])

    def squared_norm(self) -> float:
        """|W|_F^2, without W: the network against itself."""
        cores = [core.detach() for core in self.cores]
        twin = [tuple(i if i in self._physical() else f"{i}'" for i in indices) for indices in self.layout]
        return float(contract([*cores, *cores], [*self.layout, *twin], ()))

    def parameters_count(self) -> int:
        """Numbers in the cores."""
        return sum(core.numel() for core in self.cores)

    def macs(self, order: Sequence[int] | None = None) -> int:
        """Multiply-adds for one x when cores are absorbed one by one, in `order` or in the best one."""
        if order is None:
            order = self.best_order()
        open_, total, done = set(self._rows()), 0, set()
        for k in order:
            done.add(k)
            total += self._size(open_ | set(self.layout[k]))
            open_ = self._open(open_ | set(self.layout[k]), done)
        return total

    def volumes(self) -> list[int]:
        """Numbers for one x after each core of the best order; the last is N."""
        found, touched, done = [], set(self._rows()), set[int]()
        for k in self.best_order():
            done.add(k)
            touched |= set(self.layout[k])
            found.append(self._size(self._open(touched, done)))
        return found

    def best_order(self) -> list[int]:
        """The order of absorbing cores into x with the fewest multiply-adds: Dijkstra over sets of absorbed cores.

        It is the best of all orders as long as no more than `WIDTH` sets of a size are looked at, as with all published
        networks; trees of 30 cores have millions of sets, of which it looks at the cheapest `WIDTH` of each size.
        """
        if self._order is None:
            self._order = self._cheapest_order()
        return self._order

    def _cheapest_order(self) -> list[int]:
        number, seen = len(self.cores), set[frozenset[int]]()
        looked_at = [0] * number
        ahead: list[tuple[int, list[int]]] = [(0, [])]
        while True:
            cost, order = heapq.heappop(ahead)
            done = frozenset(order)
            if len(order) == number:
                return order
            if done in seen or looked_at[len(order)] == WIDTH:
                continue
            seen.add(done)
            looked_at[len(order)] += 1
            open_ = self._open(set(self._rows()) | {i for k in done for i in self.layout[k]}, done)
            for k in range(number):
                if k not in done:
                    heapq.heappush(ahead, (cost + self._size(open_ | set(self.layout[k])), [*order, k]))

    def fit(self, weight: Tensor, sweeps: int = 200, tolerance: float = 1e-10) -> Self:
        """Alternating least squares: each core in turn is the best for the others, until a sweep gains nothing."""
        target = as_tensor(weight, self.in_modes, self.out_modes)
        names, last = self._physical(), math.inf
        with torch.no_grad():
            for _ in range(sweeps):
                for k, core in enumerate(self.cores):
                    own = tuple(i for i in self.layout[k] if i in names)
                    bonds = tuple(i for i in self.layout[k] if i not in names)
                    rest = tuple(i for i in names if i not in own)
                    others = [j for j in range(len(self.cores)) if j != k]
                    around = contract(
                        [self.cores[j] for j in others], [self.layout[j] for j in others], bonds + rest
                    ).reshape(self._size(bonds), -1)
                    seen = target.permute([names.index(i) for i in own + rest]).reshape(self._size(own), -1)
                    # The one driver for matrices without full rank is LAPACK's, on the CPU.
                    solved = torch.linalg.lstsq(around.T.cpu(), seen.T.cpu(), driver="gelsd").solution
                    shaped = solved.T.reshape([self.sizes[i] for i in own + bonds])
                    core.copy_(shaped.permute([(own + bonds).index(i) for i in self.layout[k]]))
                error = self._distance(weight)
                if last - error < tolerance:
                    break
                last = error
        self.error = error
        return self

    def load(self, cores: Iterable[Tensor], weight: Tensor) -> Self:
        """Take the numbers of `cores`, and note how far from `weight` they are."""
        with torch.no_grad():
            for mine, theirs in zip(self.cores, cores, strict=True):
                mine.data = theirs.reshape(mine.shape).clone()
            self.error = self._distance(weight)
        return self

    def extra_repr(self) -> str:
        modes = f"{'x'.join(map(str, self.in_modes))} -> {'x'.join(map(str, self.out_modes))}"
        return f"{modes}, {self.parameters_count():,} parameters"

    def _distance(self, weight: Tensor) -> float:
        """|weight - W| / |weight|; of a weight of zeros, |W|."""
        return (weight - self.to_dense()).norm().item() / (weight.norm().item() or 1.0)

    def _rows(self) -> Indices:
        return tuple(f"i{k}" for k in range(len(self.in_modes)))

    def _columns(self) -> Indices:
        return tuple(f"j{k}" for k in range(len(self.out_modes)))

    def _physical(self) -> Indices:
        return self._rows() + self._columns()

    def _size(self, indices: Iterable[str]) -> int:
        return math.prod([self.sizes[i] for i in indices])

    def _cut(self) -> tuple[Indices, list[tuple[list[int], Indices, Indices]]]:
        """The bonds across the cut; the cores left and right of it, with the rows and columns that they hold."""
        sides = [sorted(self.left), [k for k in range(len(self.cores)) if k not in self.left]]
        here, there = ({i for k in side for i in self.layout[k]} for side in sides)
        return tuple(sorted(here & there)), [
            (
                side,
                tuple(i for i in self._rows() if i in held),
                tuple(j for j in self._columns() if j in held),
            )
            for side, held in zip(sides, (here, there))
        ]

    def _contracted(self, chosen: Sequence[int], out: Indices) -> Tensor:
        layout = [self.layout[k] for k in chosen]
        return contract([self.cores[k] for k in chosen], layout, out, self._paths[out])

    def _found_paths(self) -> dict[Indices, Path]:
        """How `to_dense` and `lower` contract, found once and not under torch.compile."""
        bonds, sides = self._cut()
        wanted = [(chosen, bonds + rows + columns) for chosen, rows, columns in sides]
        wanted.append((list(range(len(self.cores))), self._physical()))
        found = {}
        for chosen, out in wanted:
            layout = tuple(self.layout[k] for k in chosen)
            found[out] = _path(layout, tuple(sorted(self.sizes.items())), out)
        return found

    def _open(self, touched: set[str], done: Iterable[int]) -> set[str]:
        """Of the indices seen so far, those that a later core or y still needs."""
        done = set(done)
        ahead = {i for k, indices in enumerate(self.layout) if k not in done for i in indices}
        return {i for i in touched if i in ahead or i[0] == "j"}


def _is_same(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.is_cpu and torch.equal(x, y)


def contract(
    tensors: Iterable[Tensor], layout: Sequence[Indices], out: Indices, path: Path | None = None
) -> Tensor:
    """The sum over all indices but `out` of the product of the tensors, two at a time, by `path` or in a good order."""
    parts, names = list(tensors), list(layout)
    if path is None:
        sizes = {i: n for t, indices in zip(parts, names) for i, n in zip(indices, t.shape, strict=True)}
        path = _path(tuple(names), tuple(sorted(sizes.items())), out)
    for a, b in path:
        kept = _kept(names, a, b, out)
        both = _einsum([parts[a], parts[b]], [names[a], names[b]], kept)
        for k in sorted((a, b), reverse=True):
            del parts[k], names[k]
        parts.append(both)
        names.append(kept)
    return _einsum(parts, names, out)


def _einsum(parts: list[Tensor], names: list[Indices], out: Indices) -> Tensor:
    number = {name: k for k, name in enumerate(dict.fromkeys(i for indices in names for i in indices))}
    arguments: list[object] = []
    for part, indices in zip(parts, names, strict=True):
        arguments += [part, [number[i] for i in indices]]
    return torch.einsum(*arguments, [number[i] for i in out])


def _kept(names: Sequence[Indices], a: int, b: int, out: Indices) -> Indices:
    elsewhere = {i for k, indices in enumerate(names) if k not in (a, b) for i in indices} | set(out)
    return tuple(i for i in dict.fromkeys(names[a] + names[b]) if i in elsewhere)


@functools.lru_cache(maxsize=1024)
def _path(layout: tuple[Indices, ...], sizes: tuple[tuple[str, int], ...], out: Indices) -> Path:
    """Greedy: always the pair whose product grows memory least, the cheaper one at equal growth."""
    size, names, path = dict(sizes), list(layout), []

    def volume(indices: Iterable[str]) -> int:
        return math.prod(size[i] for i in indices)

    while len(names) > 1:
        pairs = [(a, b) for a in range(len(names)) for b in range(a + 1, len(names))]
        cost = {
            (a, b): (
                volume(_kept(names, a, b, out)) - volume(names[a]) - volume(names[b]),
                volume(set(names[a]) | set(names[b])),
            )
            for a, b in pairs
        }
        a, b = min(pairs, key=lambda pair: cost[pair])
        kept = _kept(names, a, b, out)
        names = [indices for k, indices in enumerate(names) if k not in (a, b)] + [kept]
        path.append((a, b))
    return path


def checked_modes(name: str, modes: Sequence[int]) -> tuple[int, ...]:
    """Modes as plain ints, each at least 1."""
    found = tuple(int(m) for m in modes)
    if not found or min(found) < 1:
        raise ValueError(f"{name} must be one or more factors of at least 1; got {list(modes)}.")
    return found


def checked_ranks(format_: str, ranks: int | Sequence[int], number: int, meaning: str) -> tuple[int, ...]:
    """One rank for all bonds, or one for each."""
    found = tuple(int(r) for r in ranks) if isinstance(ranks, Iterable) else (int(ranks),) * number
    if len(found) != number:
        raise ValueError(
            f"{format_} takes {number} ranks here ({meaning}), or one for all; got {list(found)}."
        )
    if found and min(found) < 1:
        raise ValueError(f"ranks must be at least 1; got {list(found)}.")
    return found


def named_modes(in_modes: Sequence[int], out_modes: Sequence[int]) -> dict[str, int]:
    """The sizes of "i0" .. and "j0" ..."""
    rows = {f"i{k}": m for k, m in enumerate(in_modes)}
    return rows | {f"j{k}": n for k, n in enumerate(out_modes)}
