"""How x W is evaluated for a format: lowered, core by core, or reconstructed, whichever costs least.

    lowered        W = sum_s A_s (x) C_s, two GEMMs (kernels.kron_linear)
    cores          x absorbs one core after the other, in the order with the fewest multiply-adds
    reconstructed  W is contracted once, then one GEMM

The cost of one evaluation of n rows is its multiply-adds plus what its memory traffic would have made possible meanwhile:
`BALANCE` multiply-adds a byte, near what CPUs and GPUs have in float32. Backward is twice forward for each of the three.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.formats.network import Format

Execution = Literal["lowered", "cores", "reconstructed"]
BALANCE = 10.0
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
    costs: dict[Execution, Cost] = {
        "lowered": Cost(rows * s * min(right, left), ends + 2 * FLOAT * rows * between + 2 * factors + cores),
        "cores": Cost(rows * network.macs(), ends + 2 * FLOAT * rows * sum(network.volumes()[:-1]) + cores),
        "reconstructed": Cost(rows * m * n + s * m * n, ends + 2 * FLOAT * m * n + factors + cores),
    }
    return Plan(min(costs, key=lambda name: costs[name].total), costs)
