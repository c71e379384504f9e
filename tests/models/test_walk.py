"""Whatever is exported takes what it is given, and is right, or refuses it in a sentence of its own: never a wrong answer
without a word, a crash, a hang or a message from the depths of torch or numba.

tests/models/walk.py has a good call of everything. Each of its tensors is changed in every way below, alone; the result is
compared with the plain form's, in float64.
"""

import traceback
from pathlib import Path

import pytest
import torch

import dropfold.kernels
import dropfold.models
from tests.models.walk import CALLS, KERNELS, MODELS, NOT_CALLED_WITH_TENSORS

HERE = [str(Path(package.__file__).resolve().parent) for package in (dropfold.kernels, dropfold.models)]
LARGE = {
    "VGG16",
    "DGCNN",
    "DGCNNSegmentation",
    "PointNet",
    "PointNetSegmentation",
    "PointNet2",
    "PointNet2Segmentation",
}


def with_number(x, place, value):
    """x with another number at a place of its memory."""
    spoilt = x.clone()
    spoilt.view(-1)[place] = value
    return spoilt


FLOATING = {
    "long": lambda x: x.long(),
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "double": lambda x: x.double(),
    "nan": lambda x: with_number(x, x.numel() // 2, torch.nan),
    "gradient": lambda x: x.clone().requires_grad_(),
}
INTEGER = {
    "float": lambda x: x.float(),
    "int32": lambda x: x.int(),
    "far": lambda x: with_number(x, -1, 10**5),
    "negative": lambda x: with_number(x, 0, -7),
}
ANY = {
    "too narrow": lambda x: x[..., :-1],
    "too wide": lambda x: torch.cat([x, x[..., :1]], -1),
    "channels first": lambda x: x.transpose(-1, -2) if x.dim() > 1 else x,
    "meta": lambda x: x.to("meta"),
    "no rows": lambda x: x[:0],
    "no points": lambda x: x[:, :0] if x.dim() > 1 else x,
    "every second number": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed memory": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x,
    "expanded": lambda x: x[:1].expand_as(x),
    "a list": lambda x: x.tolist(),
    "a row": lambda x: x[0],
    "a batch of one": lambda x: x[None],
}
TOGETHER = {
    "half": lambda x: x.half() if x.is_floating_point() else x,
    "bfloat16": lambda x: x.bfloat16() if x.is_floating_point() else x,
    "double": lambda x: x.double() if x.is_floating_point() else x,
    "meta": lambda x: x.to("meta"),
}


def changes(call):
    """`(what, tensors)`: the good call, the call of other sizes, all tensors changed alike, and each of them alone."""
    good = call.tensors()
    yield "good", good
    for sizes in ((0, 30), (2, 0), (0, 0), (1, 1)):
        yield f"{sizes[0]} of {sizes[1]}", call.tensors(*sizes)
    for what, change in TOGETHER.items():
        yield f"all {what}", {name: change(x) for name, x in good.items()}
    for name, x in good.items():
        for what, change in (ANY | (FLOATING if x.is_floating_point() else INTEGER)).items():
            yield f"{name} {what}", good | {name: change(x)}


def tensors_of(result):
    """The tensors of a result, whatever holds them."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [x for part in result or () for x in tensors_of(part)] if isinstance(result, tuple | list) else []


def in_double(tensors):
    return {
        name: x.detach().double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in tensors.items()
    }


def fault(call, what, tensors):
    """What is wrong with the outcome of a call; None if it is right, or refused in a sentence of ours."""
    try:
        found = tensors_of(call.run(**tensors))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = isinstance(error, ValueError | TypeError) and any(last.startswith(folder) for folder in HERE)
        sentence = ours and len(str(error).split()) >= 5
        refusable = what != "good" and not what.endswith(
            (" transposed memory", " every second number", " gradient")
        )
        return None if sentence and refusable else f"{type(error).__name__} in {last}: {str(error)[:200]}"
    if any(x.is_meta for x in found):
        good = tensors_of(call.plain(**call.tensors()))
        shapes = [x.shape for x in found], [x.shape for x in good]
        return None if shapes[0] == shapes[1] else f"shapes {shapes[0]} instead of {shapes[1]}"
    try:
        right = tensors_of(call.plain(**(tensors if call.exact else in_double(tensors))))
    except Exception as error:
        return f"a result {[tuple(x.shape) for x in found]}; the plain form: {type(error).__name__}: {str(error)[:200]}"
    # Of the coarsest type among inputs and outputs; sums of up to a few dozen terms, through up to ten layers.
    types = {
        x.dtype for x in [*found, *tensors.values()] if isinstance(x, torch.Tensor) and x.is_floating_point()
    }
    types |= {torch.float32} if call.weights else set()
    eps = max((torch.finfo(dtype).eps for dtype in types), default=0.0)
    if len(found) != len(right):
        return f"{len(found)} tensors instead of {len(right)}"
    for mine, theirs in zip(found, right, strict=True):
        if mine.shape != theirs.shape:
            return f"shape {list(mine.shape)} instead of {list(theirs.shape)}"
        if not torch.allclose(mine.double(), theirs.double(), rtol=100 * eps, atol=100 * eps, equal_nan=True):
            return f"differs from the plain form by {(mine.double() - theirs.double()).abs().max()}"
    return None


def walk(name):
    call = CALLS[name]
    faults = {what: fault(call, what, tensors) for what, tensors in changes(call)}
    return {what: found for what, found in faults.items() if found}


def test_nothing_exported_is_forgotten():
    assert set(dropfold.kernels.__all__) <= set(KERNELS) | NOT_CALLED_WITH_TENSORS
    assert set(dropfold.models.__all__) <= set(MODELS) | NOT_CALLED_WITH_TENSORS


@pytest.mark.filterwarnings("ignore")  # of torch, about what it then refuses
@pytest.mark.parametrize("name", [name for name in CALLS if name not in LARGE])
def test_what_is_given_is_right_or_refused_in_a_sentence(name):
    assert walk(name) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(LARGE))
def test_what_a_network_is_given_is_right_or_refused_in_a_sentence(name):
    assert walk(name) == {}
