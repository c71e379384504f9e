"""The masked softmax against float64, the policy's graph and gradient against enumeration, and searches of a toy space."""

import itertools

import pytest
import torch

from dropfold.compress.transform.architecture import Architecture, Edge, Space, key_of
from dropfold.compress.transform.masked_softmax import masked_softmax
from dropfold.compress.transform.policy import Policy, Reinforce
from dropfold.compress.transform.search import search
from dropfold.compress.transform.transitions import CONVOLUTIONS


def toy(operations=("conv_3x3", "conv_1x1", "skip_connect")):
    """Two inputs; a node of two edges, then one of the first node and an input, as the authors' cells have them."""
    places = [("x0", "a"), ("x1", "a"), ("a", "b")]
    edges = tuple(
        Edge(f"e{i}", *place, operation)
        for i, (place, operation) in enumerate(zip(places, operations, strict=True))
    )
    return Space(Architecture(edges), {edge.name: CONVOLUTIONS[edge.operation] for edge in edges})


def test_masked_softmax_is_a_softmax_over_the_valid():
    torch.manual_seed(0)
    z = torch.randn(50, 13, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(50, 13) < 0.4
    valid[torch.arange(50), torch.arange(50) % 13] = True
    valid[0] = torch.arange(13) == 5  # one left
    p = masked_softmax(z, valid)
    raw = z.detach().exp() * valid
    expected = raw / raw.sum(1, keepdim=True)
    torch.testing.assert_close(p, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(p.sum(1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (p[~valid] == 0).all()
    weights = torch.randn(50, 13, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((p * weights).sum(), z)
    assert (gradient[~valid] == 0).all()
    assert (gradient[0] == 0).all()
    by_hand = p * (weights - (p * weights).sum(1, keepdim=True))
    torch.testing.assert_close(gradient, by_hand, rtol=0, atol=1e-12)


def test_masked_softmax_ignores_what_stands_at_invalid_places():
    z = torch.tensor([[1e4, float("inf"), 0.0], [float("nan"), 1.0, 1.0]], dtype=torch.float64)
    valid = torch.tensor([[True, False, True], [False, True, True]])
    assert masked_softmax(z, valid).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]


def test_the_released_form_adds_to_each_valid_probability():
    valid = torch.tensor([True, False, True])
    z = torch.zeros(3, dtype=torch.float64)
    expected = torch.tensor([0.50001, 0.0, 0.50001], dtype=torch.float64)
    torch.testing.assert_close(masked_softmax(z, valid, released=True), expected, rtol=0, atol=1e-15)


def test_masked_softmax_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="no valid transition"):
        masked_softmax(torch.zeros(2, 3), torch.tensor([[True, False, False], [False] * 3]))
    with pytest.raises(ValueError, match="mask of the logits' shape"):
        masked_softmax(torch.zeros(2, 3), torch.ones(2, 3))


def test_the_policy_is_two_graph_convolutions():
    """Against the formula of its docstring, written with loops."""
    torch.manual_seed(0)
    policy = Policy(toy(), embedding=4, features=6, hidden=5).double()
    space, state = policy.space, {name: value.detach() for name, value in policy.state_dict().items()}
    nodes = space.original.nodes
    assert set(nodes) == {"x0", "x1", "a", "b"}
    words = {
        name: i
        for i, name in enumerate(dict.fromkeys([*space.vocabulary, "conv_3x3", "conv_1x1", "skip_connect"]))
    }
    none = state["operation.weight"][-1]
    rows, starts = [], iter(state["start.weight"])
    for node in nodes:
        into = [edge for edge in space.original.edges if edge.target == node]
        slots = [state["operation.weight"][words[edge.operation]] for edge in into] + [none] * (2 - len(into))
        rows.append(torch.cat(slots) if into else next(starts))

    def convolved(x, name):
        y = x @ state[f"{name}.weight"]
        sums = [
            sum((y[nodes.index(e.source)] for e in space.original.edges if e.target == node), 0 * y[0])
            for node in nodes
        ]
        return torch.stack(sums) + state[f"{name}.bias"]

    x = torch.stack(rows) @ state["embed.weight"].T + state["embed.bias"]
    x = convolved(convolved(x, "first").relu(), "second") @ state["head.weight"].T + state["head.bias"]
    p = policy()
    used = dict.fromkeys(nodes, 0)
    for i, edge in enumerate(space.original.edges):
        logits = x[nodes.index(edge.target)].view(2, -1)[used[edge.target]]
        used[edge.target] += 1
        valid = torch.tensor([name in space.options[edge.name] for name in space.vocabulary])
        torch.testing.assert_close(p[i][valid], logits[valid].softmax(0), rtol=0, atol=1e-12)
        assert (p[i][~valid] == 0).all()


def test_reinforce_is_unbiased():
    """The mean of its gradients over draws is the gradient of the mean reward, taken over all architectures."""
    torch.manual_seed(0)
    space = toy()
    policy = Policy(space, embedding=3, features=4, hidden=4).double()
    reward = {key_of(operations): i % 7 - 2.5 for i, operations in enumerate(space.all())}
    p, vocabulary = policy(), space.vocabulary
    mean = sum(
        reward[key_of(operations)]
        * torch.stack([p[i, vocabulary.index(o)] for i, o in enumerate(operations.values())]).prod()
        for operations in space.all()
    )
    (exact,) = torch.autograd.grad(mean, policy.head.bias)
    generator, gradients = torch.Generator().manual_seed(1), []
    for _ in range(800):
        drawn = policy.draw(generator)
        advantage = reward[key_of(drawn.operations)] - 0.7  # any baseline
        gradients.append(torch.autograd.grad(drawn.log_probability * advantage, policy.head.bias)[0])
    found = torch.stack(gradients)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-12).all()
    assert exact.abs().max() > 5 * error[exact.abs().argmax()]  # the test can see it


def test_the_baseline_is_the_moving_mean_of_rewards_and_the_released_one_half_of_it():
    torch.manual_seed(0)
    for released, expected in ((False, 3.0), (True, 1.5)):
        learner = Reinforce(Policy(toy(), embedding=2, features=2, hidden=2), decay=0.9, released=released)
        for _ in range(100):
            learner.step(lambda _: 3.0)
        assert learner.baseline == pytest.approx(expected, abs=0.02)


def test_the_baseline_is_updated_after_use():
    torch.manual_seed(0)
    learner = Reinforce(Policy(toy(), embedding=2, features=2, hidden=2))
    rewards = iter([2.0, 4.0])
    learner.step(lambda _: next(rewards))
    assert learner.baseline == 2.0
    learner.step(lambda _: next(rewards))
    assert learner.baseline == pytest.approx(0.99 * 2 + 0.01 * 4)


def worth(operations):
    """Each edge has one best operation."""
    return sum(
        {"conv_1x1": 1.0, "skip_connect": 0.3}.get(operation, -0.5) * (i + 1)
        for i, operation in enumerate(operations.values())
    )


def test_policy_and_enumeration_agree_on_a_toy_space():
    space = toy(("conv_3x3", "conv_1x1", "conv_3x3"))
    best, _ = search(space, worth, "all", 1000)
    assert len(best.rewards) == 8 * 3 * 8
    top = max(best.rewards, key=best.rewards.get)
    assert top == "e0=conv_1x1 e1=conv_1x1 e2=conv_1x1"
    torch.manual_seed(0)
    policy = Policy(space, embedding=20, features=50, hidden=20)
    learner, generator = Reinforce(policy, lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(400):
        learner.step(worth, generator)
    assert [space.vocabulary[i] for i in policy().argmax(1)] == ["conv_1x1"] * 3


@pytest.mark.parametrize("how", ["policy", "policy-released", "evolution", "random"])
def test_a_search_scores_different_architectures_and_is_determined_by_its_seed(how):
    space = toy(("conv_3x3", "conv_1x1", "conv_3x3"))
    asked = []

    def reward(operations):
        asked.append(key_of(operations))
        return worth(operations)

    first, history = search(space, reward, how, 20, seed=3)
    assert len(asked) == len(set(asked)) == len(first.rewards) <= 20
    assert key_of(space.original.operations()) == asked[0]
    assert all(o in space.options[name] for found in first.operations.values() for name, o in found.items())
    second, _ = search(space, worth, how, 20, seed=3)
    assert first.rewards == second.rewards
    assert bool(history) == how.startswith("policy")


def test_evolution_finds_better_ones_than_drawing():
    space = toy(("conv_5x5",) * 3)

    def best(how):
        return sum(max(search(space, worth, how, 120, seed)[0].rewards.values()) for seed in range(5))

    assert best("evolution") > best("random")


def test_all_architectures_are_refused_where_they_are_too_many():
    with pytest.raises(ValueError, match="all architectures are more than 10"):
        search(toy(), worth, "all", 10)


def test_an_architecture_is_a_value():
    architecture = toy().original
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert architecture.with_operations({"e1": "null"}).operations()["e1"] == "null"
    with pytest.raises(KeyError, match="edge 'e9' is not known"):
        architecture.with_operations({"e9": "null"})
    with pytest.raises(ValueError, match="in a circle"):
        Architecture((Edge("a", "x", "y", "null"), Edge("b", "y", "x", "null")))
    with pytest.raises(ValueError, match="names of their own"):
        Architecture((Edge("a", "x", "y", "null"), Edge("a", "y", "z", "null")))
    for text in ("{}", "[[1, 2, 3, 4]]", "nonsense"):
        with pytest.raises(ValueError, match="architecture"):
            Architecture.from_json(text)
    with pytest.raises(ValueError, match="no edge of this architecture has a valid transition"):
        Space(Architecture((Edge("a", "x", "y", "conv_3x3"),)), {"a": ("conv_3x3",)})
    with pytest.raises(ValueError, match="must be able to stay conv_3x3"):
        Space(Architecture((Edge("a", "x", "y", "conv_3x3"),)), {"a": ("null", "conv_1x1")})


def test_nodes_come_after_those_that_lead_to_them():
    for order in itertools.permutations(toy().original.edges):
        nodes = Architecture(order).nodes
        assert all(nodes.index(edge.source) < nodes.index(edge.target) for edge in order)
