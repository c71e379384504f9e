"""The plain form of the recurrent networks: frame by frame through their own modules, equal to the fused one."""

import copy
from collections import Counter

import pytest
import torch

from dropfold.models import TensorGRU, TensorLinear, TensorLSTM, unfused
from dropfold.models.formats import FormatSpec

D, T, B, INPUT, HIDDEN = torch.float64, 5, 3, 12, 8
CLOSE = {"rtol": 0.0, "atol": 1e-10}  # float64, sums in another order
TT = FormatSpec("tt", (3, 4), (2, 4), (2,))
HH = FormatSpec("tt", (2, 4), (2, 4), (2,))
MEGA = FormatSpec("ht", (6, 4), (2, 4), (2,))
MODELS = {
    "lstm": lambda **o: TensorLSTM(INPUT, HIDDEN, 2, ih=TT, hh=HH, **o),
    "lstm, dense hidden": lambda **o: TensorLSTM(INPUT, HIDDEN, 1, ih=TT, **o),
    "lstm, mega": lambda **o: TensorLSTM(INPUT, HIDDEN, 1, mega=MEGA, **o),
    "gru": lambda **o: TensorGRU(INPUT, HIDDEN, 2, ih=TT, hh=HH, **o),
    "gru without bias": lambda **o: TensorGRU(INPUT, HIDDEN, 1, hh=HH, bias=False, **o),
    "gru, reset before": lambda **o: TensorGRU(INPUT, HIDDEN, 1, hh=HH, reset="before", **o),
    "gru, mega": lambda **o: TensorGRU(INPUT, HIDDEN, 1, mega=MEGA, reset="before", **o),
}


def outcome(model, x, **options):
    x = x.clone().requires_grad_()
    torch.manual_seed(3)
    out, state = model(x, **options)
    parts = [out, *(state if isinstance(state, tuple) else (state,))]
    weights = [torch.linspace(-1, 1, part.numel(), dtype=D).view_as(part) for part in parts]
    loss = sum((part * w).sum() + part.square().sum() for part, w in zip(parts, weights))
    return [*parts, *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.mark.parametrize("lengths", [None, torch.tensor([5, 2, 4])], ids=["whole", "lengths"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True, "batch_first": True}, {"recurrent_dropout": 0.4, "dropout": 0.3}],
    ids=["plain", "both directions", "dropout"],
)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:dropout option")
def test_both_forms_agree(name, options, lengths):
    model = MODELS[name](**options).to(D)
    for bias in model.hidden_bias:
        torch.nn.init.normal_(bias)
    plain = copy.deepcopy(model)
    x = torch.randn(B, T, INPUT, dtype=D) if options.get("batch_first") else torch.randn(T, B, INPUT, dtype=D)
    more = {"lengths": lengths, "scale": 0.7, "shift": -0.1}
    expected = outcome(model, x, **more)
    with unfused(plain):
        found = outcome(plain, x, **more)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_every_module_runs_its_hook():
    model, calls = MODELS["lstm"](bidirectional=True), Counter()
    linears = {n: m for n, m in model.named_modules() if isinstance(m, TensorLinear)}
    for n, module in linears.items():
        module.register_forward_hook(lambda *_, n=n: calls.update([n]))
    with unfused(model):
        model(torch.randn(T, B, INPUT))
    assert calls == {n: T if n.startswith("hh") else 1 for n in linears}


def test_first_states_are_taken():
    model, x = MODELS["lstm"]().to(D), torch.randn(T, B, INPUT, dtype=D)
    first = tuple(torch.randn(2, B, HIDDEN, dtype=D) for _ in range(2))
    expected = model(x, first)
    with unfused(model):
        found = model(x, first)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("bytes_", [False, True])
def test_a_linear_layer_agrees(bytes_):
    layer = TensorLinear(INPUT, HIDDEN, TT).to(D)
    x = torch.randint(0, 256, (4, INPUT), dtype=torch.uint8) if bytes_ else torch.randn(4, INPUT, dtype=D)
    expected = layer(x, scale=0.01, shift=-0.3)
    with unfused(layer):
        torch.testing.assert_close(layer(x, scale=0.01, shift=-0.3), expected, **CLOSE)
