"""Hierarchical Tucker: a binary tree of modes, a frame at each leaf, a transfer tensor at each inner node.

    U_t[:, s] = sum_{p, q} B_t[p, q, s] U_left[:, p] (x) U_right[:, q]
    W         = sum_{p, q} R[p, q]      U_left[:, p] (x) U_right[:, q]      at the root

sum_leaves n_t r_t + sum_inner r_left r_right r_t + r_left r_right (root) parameters. Three layouts of the leaves:

    paired       (i_1 j_1), (i_2 j_2), ..       d leaves of size m_k n_k
    split        i_1 .. i_d, j_1 .. j_e         a root between inputs and outputs: W has rank at most r
    interleaved  i_1, j_1, i_2, j_2, ..         as many parameters as split, and (nearly) full rank

Sources: Hackbusch and Kuehn 2009; HSVD, Grasedyck 2010; the HT-LSTM, Yin et al. 2020;
FDHT-LSTM, Wu et al. 2021 (arXiv 2104.05758).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from dropfold.models.formats.fitting import as_tensor, one_of, truncated_svd, warn_wasteful
from dropfold.models.formats.network import Format, Indices, checked_modes, checked_ranks, named_modes
from dropfold.models.formats.tt import paired_modes

Tree = int | tuple["Tree", "Tree"]
Layout = Literal["paired", "split", "interleaved"]


class HT(Format):
    """A matrix in hierarchical Tucker form.

    Args:
        in_modes, out_modes: as many of one as of the other, unless `leaves` is "split".
        ranks: one for each node but the root, children before parents and left before right; or one for all.
        leaves: the layout above.
        tree: nested pairs of leaf numbers in ascending order, ((0, 1), (2, 3)) for four; default: halves.
    """

    frames = True

    def __init__(
        self,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        ranks: int | Sequence[int],
        *,
        leaves: Layout = "paired",
        tree: Tree | None = None,
    ) -> None:
        rows, columns, leaf_indices = leaf_modes(in_modes, out_modes, leaves)
        self.leaves, self.tree = leaves, checked_tree(tree, len(leaf_indices))
        nodes = inner_first(self.tree)
        self.ranks = checked_ranks("HT", ranks, len(nodes), "one for each node of the tree but the root")
        number = {node: k for k, node in enumerate(nodes)}
        sizes = named_modes(rows, columns)
        widths = [math.prod(sizes[i] for i in indices) for indices in leaf_indices]
        rank = dict(zip(nodes, self.ranks))
        layout: list[Indices] = []
        for node in nodes:
            inside = math.prod(widths[k] for k in members(node))
            outside = math.prod(widths) // inside
            if isinstance(node, int):
                layout.append((*leaf_indices[node], f"r{number[node]}"))
            else:
                layout.append(tuple(f"r{number[child]}" for child in (*node, node)))
                inside = min(inside, rank[node[0]] * rank[node[1]])
            warn_wasteful("HT", f"node {node}", rank[node], min(inside, outside))
        first, second = self.tree  # type: ignore[misc]
        layout.append((f"r{number[first]}", f"r{number[second]}"))
        bonds = {f"r{number[node]}": r for node, r in rank.items()}
        left = [number[node] for node in nodes if set(members(node)) <= set(members(first))]
        super().__init__(rows, columns, layout, bonds, left)

    @classmethod
    def from_dense(
        cls,
        weight: Tensor,
        in_modes: Sequence[int],
        out_modes: Sequence[int],
        *,
        ranks: int | Sequence[int] | None = None,
        eps: float | None = None,
        leaves: Layout = "paired",
        tree: Tree | None = None,
    ) -> Self:
        """HSVD (Grasedyck 2010): a frame for each node from the SVD of its unfolding, at given ranks or with an error of
        at most eps |W|_F; `error` is what it reached."""
        one_of(ranks, eps)
        rows, columns, leaf_indices = leaf_modes(in_modes, out_modes, leaves)
        tree = checked_tree(tree, len(leaf_indices))
        nodes, names = (
            inner_first(tree),
            [f"i{k}" for k in range(len(rows))] + [f"j{k}" for k in range(len(columns))],
        )
        order = [names.index(i) for indices in leaf_indices for i in indices]
        sizes = named_modes(rows, columns)
        widths = [math.prod(sizes[i] for i in indices) for indices in leaf_indices]
        tensor = as_tensor(weight, rows, columns).permute(order).reshape(widths)
        wanted = (
            None
            if ranks is None
            else checked_ranks("HT", ranks, len(nodes), "one for each node but the root")
        )
        delta = None if eps is None else eps * weight.norm().item() / math.sqrt(2 * len(widths) - 3)
        frame: dict[Tree, Tensor] = {}
        for k, node in enumerate(nodes):
            here = members(node)
            before, inside = math.prod(widths[: here[0]]), math.prod(widths[j] for j in here)
            unfolding = tensor.reshape(before, inside, -1).transpose(0, 1).reshape(inside, -1)
            frame[node] = truncated_svd(unfolding, None if wanted is None else wanted[k], delta)[0]
        cores = []
        for node in nodes:
            u = frame[node]
            if not isinstance(node, int):
                a, b = (frame[child] for child in node)
                u = torch.einsum("ap,abs,bq->pqs", a, u.reshape(a.shape[0], b.shape[0], -1), b)
            cores.append(u)
        a, b = (frame[child] for child in tree)  # type: ignore[union-attr]
        cores.append(a.T @ tensor.reshape(a.shape[0], b.shape[0]) @ b)
        found = [frame[node].shape[1] for node in nodes]
        return cls(in_modes, out_modes, found, leaves=leaves, tree=tree).load(cores, weight)


def leaf_modes(
    in_modes: Sequence[int], out_modes: Sequence[int], leaves: Layout
) -> tuple[tuple[int, ...], tuple[int, ...], list[Indices]]:
    """The modes, checked, and the indices of each leaf in the tree's order."""
    if leaves not in ("paired", "split", "interleaved"):
        raise ValueError(f"leaves must be 'paired', 'split' or 'interleaved'; got {leaves!r}.")
    if leaves == "split":
        rows, columns = checked_modes("in_modes", in_modes), checked_modes("out_modes", out_modes)
        found: list[Indices] = [(f"i{k}",) for k in range(len(rows))]
        return rows, columns, found + [(f"j{k}",) for k in range(len(columns))]
    rows, columns = paired_modes(f"{leaves} HT", in_modes, out_modes)
    pairs = [(f"i{k}", f"j{k}") for k in range(len(rows))]
    return rows, columns, list(pairs) if leaves == "paired" else [(i,) for pair in pairs for i in pair]


def checked_tree(tree: Tree | None, number: int) -> Tree:
    """The tree, or the one that halves; refused if its leaves are not 0 .. number - 1 in order."""
    if number < 2:
        raise ValueError("HT needs at least two leaves; got one mode.")
    if tree is None:
        return halves(range(number))
    if isinstance(tree, int) or members(tree) != list(range(number)):
        raise ValueError(
            f"tree must be nested pairs of the leaves 0 to {number - 1} in ascending order, as {halves(range(number))}; got "
            f"{tree}."
        )
    return tree


def halves(leaves: Sequence[int]) -> Tree:
    """The balanced tree: cut in the middle, again and again."""
    if len(leaves) == 1:
        return leaves[0]
    middle = len(leaves) // 2
    return halves(leaves[:middle]), halves(leaves[middle:])


def members(node: Tree) -> list[int]:
    """The leaves below a node."""
    return [node] if isinstance(node, int) else members(node[0]) + members(node[1])


def inner_first(tree: Tree) -> list[Tree]:
    """All nodes but the root, children before parents, left before right."""
    if isinstance(tree, int):
        return []
    return [node for child in tree for node in (*inner_first(child), child)]
