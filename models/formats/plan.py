"""How x W is evaluated for a format: lowered, core by core, or reconstructed, whichever costs least.

    lowered        W = sum_s A_s (x) C_s, two GEMMs (dropfold.kernels.recurrent.kron_linear)
    cores          x absorbs one core after the other, in the order with the fewest multiply-adds
    reconstructed  W is contracted once, then one GEMM

The cost of one evaluation of n rows is its multiply-adds plus what its memory traffic would have made possible meanwhile:
`BALANCE` multiply-adds a byte, near what CPUs and GPUs have in float32. Backward is twice forward for each of the three.

Between the two GEMMs of `lowered` a number is written and read. Core by core it is also copied, written and read once more,
into the order in which the next core takes it. Without these `COPIES` the many small contractions of block terms look 1.1
times cheaper than their 32 Kronecker terms, and take 1.3 times as long (`python -m benchmarks.plan --measure`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dropfold.models.formats.network import Format

Execution = Literal["lowered", "cores", "reconstructed"]
BALANCE = 10.0
COPIES = 2
FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Multiply-adds and bytes of one evaluation, all rows together."""

    macs: float
    bytes: float

    @property
    def total(self) -> float:
        return self.macs + BALANCE * self.bytes


@dataclass(frozen=True)
class Plan:
    """The costs of the three ways, and the one that was chosen."""

    chosen: Execution
    costs: dict[Execution, Cost]

    def __str__(self) -> str:
        parts = [
            f"{name} {cost.macs / 1e6:,.1f} M multiply-adds, {cost.bytes / 2**20:,.1f} MiB"
            for name, cost in self.costs.items()
        ]
        return f"{self.chosen} ({'; '.join(parts)})"


def plan(network: Format, rows: int) -> Plan:
    """The cheapest way to multiply `rows` rows by a format's matrix."""
    m, n = network.shape
    (s, p, u), (_, q, v) = network.kron_shapes()
    right, left = p * q * v + p * u * v, p * q * u + u * q * v
    between = s * (p * v if right <= left else u * q)
    ends = FLOAT * rows * (m + n)
    cores = FLOAT * network.parameters_count()
    factors = FLOAT * s * (p * u + q * v)
    inside = sum(network.volumes()[:-1])
    costs: dict[Execution, Cost] = {
        "lowered": Cost(
            rows * network.lowered_macs(), ends + 2 * FLOAT * rows * between + 2 * factors + cores
        ),
        "cores": Cost(rows * network.macs(), ends + 2 * FLOAT * rows * (m + COPIES * inside) + cores),
        "reconstructed": Cost(rows * m * n + s * m * n, ends + 2 * FLOAT * m * n + factors + cores),
    }
    if len(network.cores) == 1:  # a dense W is there already
        costs["reconstructed"] = Cost(rows * m * n, ends + cores)
        return Plan("reconstructed", costs)
    return Plan(min(costs, key=lambda name: costs[name].total), costs)


def switches(network: Format) -> list[tuple[int, Execution]]:
    """From how many rows on which way is the cheapest, the most rows first: every cost is a line in the rows."""
    none, one = (plan(network, rows).costs for rows in (0, 1))
    lines = [(none[way].total, one[way].total - none[way].total) for way in none]
    meet = {
        math.ceil((once - other) / (more - per_row))
        for once, per_row in lines
        for other, more in lines
        if once > other and per_row < more
    }
    found: list[tuple[int, Execution]] = []
    for rows in sorted({0, *meet}):
        chosen = plan(network, rows).chosen
        if not found or found[0][1] != chosen:
            found.insert(0, (rows, chosen))
    return found
