"""NAT++'s policy (Guo et al. 2021): two graph convolutions over the architecture say what each edge becomes.

    h_v = [e(o_1) ; e(o_2)] of the operations that lead to node v, or an embedding of its own where none do
    X = h W_e + b_e,  Z = A relu(A X W_1 + b_1) W_2 + b_2,  logits of the edges that lead to v = Z_v W_f + b_f

with A the DAG's adjacency matrix [to, from] (an edge for each time that it is there), and the masked softmax over the valid
transitions. It learns by REINFORCE: the gradient of the reward's mean is the mean of (R - b) grad log p, b a moving mean
of the rewards so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dropfold.compress.transform.architecture import Space
from dropfold.compress.transform.masked_softmax import masked_softmax


class GraphConvolution(nn.Module):
    """A X W + b, W and b uniform in 1 / sqrt(out_features), as the authors have it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = out_features**-0.5
        self.weight = nn.Parameter(torch.empty(in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias


class Drawn(NamedTuple):
    """An architecture that was drawn, the logarithm of its probability, and the entropy of all edges together."""

    operations: dict[str, str]
    log_probability: Tensor
    entropy: Tensor


class Policy(nn.Module):
    """The probabilities of each edge's operations, given the original architecture.

    Args:
        released: the masked softmax of the authors' code.
    """

    def __init__(
        self,
        space: Space,
        embedding: int = 100,
        features: int = 1024,
        hidden: int = 100,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.released = space, released
        edges, nodes = space.original.edges, space.original.nodes
        self.vocabulary = space.vocabulary
        known = tuple(dict.fromkeys([*self.vocabulary, *space.original.operations().values()]))
        leading: dict[str, list[int]] = {node: [] for node in nodes}
        for i, edge in enumerate(edges):
            leading[edge.target].append(i)
        self.slots = max(map(len, leading.values()))
        self.operation = nn.Embedding(len(known) + 1, embedding)  # the last one: no further edge
        self.start = nn.Embedding(sum(not found for found in leading.values()), self.slots * embedding)
        self.embed = nn.Linear(self.slots * embedding, features)
        self.first, self.second = GraphConvolution(features, hidden), GraphConvolution(hidden, hidden)
        self.head = nn.Linear(hidden, self.slots * len(self.vocabulary))
        position = {node: i for i, node in enumerate(nodes)}
        adjacency, words = (
            torch.zeros(len(nodes), len(nodes)),
            torch.full((len(nodes), self.slots), len(known)),
        )
        for edge in edges:
            adjacency[position[edge.target], position[edge.source]] += 1
        for node, found in leading.items():
            for slot, i in enumerate(found):
                words[position[node], slot] = known.index(edges[i].operation)
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("words", words)
        self.starts = [position[node] for node, found in leading.items() if not found]
        self.places = [(position[e.target], leading[e.target].index(i)) for i, e in enumerate(edges)]
        valid = [[name in space.options[e.name] for name in self.vocabulary] for e in edges]
        self.register_buffer("valid", torch.tensor(valid))

    def forward(self) -> Tensor:
        """Probabilities [edges, vocabulary]."""
        h = self.operation(self.words).flatten(1)
        h = h.index_put((torch.tensor(self.starts),), self.start.weight)
        x = self.first(self.embed(h), self.adjacency).relu()
        x = self.head(self.second(x, self.adjacency)).view(len(h), self.slots, -1)
        rows, slots = zip(*self.places, strict=True)
        logits = x[list(rows), list(slots)]
        return masked_softmax(logits, self.valid, released=self.released)  # type: ignore[arg-type]

    def draw(self, generator: torch.Generator | None = None) -> Drawn:
        """One architecture, each edge by its probabilities."""
        p = self()
        log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
        chosen = p.detach().multinomial(1, generator=generator)
        entropy = -(p * log_p).sum()
        names = [edge.name for edge in self.space.original.edges]
        operations = {name: self.vocabulary[i] for name, i in zip(names, chosen[:, 0].tolist(), strict=True)}
        return Drawn(self.space.canonical(operations), log_p.gather(1, chosen).sum(), entropy)


class Reinforce:
    """REINFORCE with a moving mean of rewards as its baseline, an entropy term and Adam, as published.

    loss = - log p (R - b) - 0.003 H;  then b <- 0.99 b + 0.01 R, beginning with the first reward. With `released` the
    authors' code: b begins at 0, and R - b is averaged in R's place, so that b settles at half of the mean reward.
    """

    def __init__(
        self,
        policy: Policy,
        lr: float = 3e-4,
        entropy: float = 3e-3,
        decay: float = 0.99,
        released: bool = False,
    ) -> None:
        self.policy, self.entropy, self.decay, self.released = policy, entropy, decay, released
        self.baseline: float | None = 0.0 if released else None
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=lr, betas=(0.5, 0.999), weight_decay=5e-4)

    def step(
        self, reward: Callable[[dict[str, str]], float], generator: torch.Generator | None = None
    ) -> tuple[Drawn, float]:
        """Draw an architecture, learn from its reward; returns both."""
        drawn = self.policy.draw(generator)
        found = reward(drawn.operations)
        baseline = found if self.baseline is None else self.baseline
        advantage = found - baseline
        loss = -drawn.log_probability * advantage - self.entropy * drawn.entropy
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        averaged = advantage if self.released else found
        self.baseline = self.decay * baseline + (1 - self.decay) * averaged
        return drawn, found
