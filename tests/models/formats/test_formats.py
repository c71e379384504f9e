"""The formats: published counts, textbook contractions, lowering, initialisation, fits with their bounds."""

import copy
import itertools
import math
import pickle
import warnings
from unittest import mock

import numpy as np
import pytest
import torch

from dropfold.models.formats import BT, CP, HT, TR, TT, FormatSpec, Tucker, network
from dropfold.models.formats.spec import FORMATS

UCF, GATES = (8, 20, 20, 18), (16, 4, 4, 4)  # 57,600 to 4 x 256
CNN, WIDE = (64, 32), (128, 64)  # 2,048 to 4 x 2,048
SMALL_IN, SMALL_OUT = (2, 3, 2), (3, 2, 2)


def small(dtype=torch.float64):
    """Every format and layout at 12 x 12."""
    made = {
        "tt": TT(SMALL_IN, SMALL_OUT, (3, 2)),
        "tr": TR(SMALL_IN, (4, 3), (2, 3, 2, 2, 3)),
        "bt": BT(SMALL_IN, SMALL_OUT, (2, 3, 2), blocks=2),
        "cp": CP(SMALL_IN, (4, 3), 3),
        "cp-paired": CP(SMALL_IN, SMALL_OUT, 3, paired=True),
        "tucker": Tucker(SMALL_IN, SMALL_OUT, (2, 3, 2)),
        "tucker-split": Tucker(SMALL_IN, (4, 3), (2, 2, 2, 3, 2), paired=False),
        "tucker-2": Tucker(SMALL_IN, (12,), (2, None, None, 4), paired=False),
        "ht": HT(SMALL_IN, SMALL_OUT, 2),
        "ht-split": HT(SMALL_IN, (4, 3), 2, leaves="split"),
        "ht-interleaved": HT(SMALL_IN, SMALL_OUT, 2, leaves="interleaved"),
        "ht-tree": HT(SMALL_IN, SMALL_OUT, (2, 3, 2, 4), tree=(0, (1, 2))),
    }
    return {name: made.to(dtype) for name, made in made.items()}


NAMES = list(small())


@pytest.mark.parametrize("name", FORMATS)
def test_a_spec_has_the_defaults_of_its_format(name):
    """What a config leaves out is what the class leaves out: the same cores, one by one."""
    modes = ((4, 3, 2), (2, 3, 4))
    spec = FormatSpec(name, *modes, (2,)).build(24, 24)
    made = FORMATS[name](*modes, 2)
    assert (spec.layout, spec.left) == (made.layout, made.left)
    assert [core.shape for core in spec.cores] == [core.shape for core in made.cores]


@pytest.mark.filterwarnings("ignore:.*largest useful one")
def test_counts_are_the_published():
    assert TT(UCF, GATES, 4).parameters_count() == 3_360  # Yang et al. 2017
    assert TT(UCF, (12, 4, 4, 4), 4).parameters_count() == 3_232  # the GRU
    assert BT(UCF, GATES, 4).parameters_count() == 3_392  # Ye et al. 2018
    ring = TR((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), [10] + [5] * 12)
    assert ring.parameters_count() == 1_725  # Pan et al. 2019
    assert HT(UCF, GATES, 5, leaves="split").parameters_count() == 1_245  # Yin et al. 2020
    # TedNet's benchmark on CNN features
    assert TR(CNN, WIDE, 20).parameters_count() == 115_200
    assert TT(CNN, WIDE, 10).parameters_count() == 102_400
    assert BT(CNN, WIDE, 5).parameters_count() == 102_450
    assert CP(CNN, WIDE, 400).parameters_count() == 115_200
    assert Tucker((16, 16, 8), (8192,), (10, None, None, 10), paired=False).parameters_count() == 94_880


@pytest.mark.parametrize("name", ["tt", "bt", "cp", "tucker-2", "ht", "ht-tree", "tr"])
def test_the_best_order_is_the_best_of_all(name):
    f = small()[name]
    all_orders = itertools.permutations(range(len(f.cores)))
    assert f.macs() == min(f.macs(order) for order in all_orders)


def test_a_tree_of_many_modes_has_an_order_at_once():
    """31 cores: all sets of them would take hours. Looking at three times as many finds no better order."""
    f = HT((2,) * 8, (2,) * 8, 2, leaves="interleaved")
    found = f.macs()
    assert found <= min(f.macs(order) for order in (range(31), reversed(range(31))))
    f._order = None
    with mock.patch.object(network, "WIDTH", 300):
        assert f.macs() == found


def test_one_pair_of_modes_is_the_matrix_itself():
    for f in (TT((5,), (7,), ()), BT((5,), (7,), 2), TR((5,), (7,), 2), CP((5,), (7,), 2)):
        torch.testing.assert_close(f.lower().to_dense(), f.to_dense(), rtol=0, atol=1e-6)
        (_, p, u), (_, q, v) = f.kron_shapes()
        assert (p * q, u * v) == (5, 7)
    whole = Tucker((2, 3), (4,), (2, None, None), paired=False)  # nothing is left for the right side
    torch.testing.assert_close(whole.lower().to_dense(), whole.to_dense(), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="paired CP needs at least two pairs of modes"):
        CP((5,), (7,), 2, paired=True)


@pytest.mark.filterwarnings("ignore:.*largest useful one")
def test_multiply_adds_are_those_of_the_best_order():
    tt = TT(UCF, GATES, 4)
    assert tt.macs() == tt.macs([3, 2, 1, 0]) == 1_937_408  # from the right, as TT_RNN does
    assert tt.macs([0, 1, 2, 3]) == 12_607_488  # from the left, as tednet does
    assert BT(UCF, GATES, 4).macs() == 4_825_088
    assert HT(UCF, GATES, 5, leaves="split").macs() == 395_145
    assert HT(UCF, GATES, 5, leaves="interleaved").macs() == 672_845
    lowered = tt.lower()
    assert lowered.a.shape == (4, 160, 64)
    assert lowered.c.shape == (4, 360, 16)
    assert lowered.macs() == 4 * (160 * 360 * 16 + 160 * 64 * 16)


def textbook(name, f):
    """W by the formulas of the papers, written out."""
    c = list(f.cores)
    if name == "tt":
        return torch.einsum("aur,rbvs,scw->abcuvw", *c)
    if name == "tr":
        return torch.einsum("aib,bjc,ckd,dxe,eya->ijkxy", *c)
    if name == "bt":
        return sum(
            torch.einsum("aur,bvs,cwt,rst->abcuvw", c[0][b], c[1][b], c[2][b], c[3][b]) for b in range(2)
        )
    if name == "cp":
        return sum(torch.einsum("i,j,k,x,y->ijkxy", *(core[:, r] for core in c)) for r in range(3))
    if name == "cp-paired":
        return sum(torch.einsum("au,bv,cw->abcuvw", *(core[..., r] for core in c)) for r in range(3))
    if name == "tucker":
        return torch.einsum("aur,bvs,cwt,rst->abcuvw", *c)
    if name == "tucker-split":
        return torch.einsum("ia,jb,kc,xd,ye,abcde->ijkxy", *c)
    if name == "tucker-2":
        return torch.einsum("ia,xd,ajkd->ijkx", *c)
    if name == "ht":  # leaf 0 | leaves 1 and 2 below an inner node
        return torch.einsum("aur,bvs,cwt,stx,rx->abcuvw", *c)
    if name == "ht-tree":
        return torch.einsum("aur,bvs,cwt,stx,rx->abcuvw", *c)
    if name == "ht-split":  # (i0, i1) | (i2, (j0, j1))
        return torch.einsum("ia,jb,abp,kc,xd,ye,deq,cqs,ps->ijkxy", *c)
    assert name == "ht-interleaved"  # (i0, (j0, i1)) | (j1, (i2, j2))
    return torch.einsum("ia,xb,jc,bcd,adp,ye,kf,zg,fgh,ehq,pq->ijkxyz", *c)


@pytest.mark.parametrize("name", NAMES)
def test_a_format_is_its_formula_and_its_kronecker_sum(name):
    f = small()[name]
    expected = textbook(name, f).reshape(12, 12)
    torch.testing.assert_close(f.to_dense(), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(f.lower().to_dense(), expected, rtol=0, atol=1e-13)
    assert f.squared_norm() == pytest.approx(expected.square().sum().item(), rel=1e-12)
    assert f.parameters_count() == sum(p.numel() for p in f.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_cores_through_the_kronecker_sum(name):
    f, x = small()[name], torch.randn(5, 12, dtype=torch.float64)
    kron = f.lower()
    (_, p, u), (_, q, v) = kron.a.shape, kron.c.shape
    y = torch.einsum("npq,spu,sqv->nuv", x.view(5, p, q), kron.a, kron.c).reshape(5, u * v)
    ours = torch.autograd.grad(y.square().sum(), list(f.cores))
    theirs = torch.autograd.grad((x @ textbook(name, f).reshape(12, 12)).square().sum(), list(f.cores))
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


PUBLISHED = {
    "tt": lambda: TT(UCF, GATES, 4),
    "bt": lambda: BT(UCF, GATES, 4),
    "tr": lambda: TR((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), [10] + [5] * 12),
    "ht": lambda: HT(UCF, GATES, 5, leaves="split"),
    "ht-paired": lambda: HT(UCF, GATES, 5),
    "tt-cnn": lambda: TT(CNN, WIDE, 10),
    "cp-cnn": lambda: CP(CNN, WIDE, 400),
    "tr-cnn": lambda: TR(CNN, WIDE, 20),
    "tucker-cnn": lambda: Tucker((16, 16, 8), (8192,), (10, None, None, 10), paired=False),
}


@pytest.mark.filterwarnings("ignore:.*largest useful one")
@pytest.mark.parametrize("name", PUBLISHED)
def test_unit_inputs_give_unit_pre_activations(name):
    torch.manual_seed(3)
    f = PUBLISHED[name]()
    # E |x W|^2 / N over x ~ N(0, 1) is |W|_F^2 / N.
    assert math.sqrt(f.squared_norm() / f.shape[1]) == pytest.approx(1, abs=1e-3)
    f.reset_parameters(variance=4 / f.shape[0])
    assert math.sqrt(f.squared_norm() / f.shape[1]) == pytest.approx(2, abs=2e-3)


def refitted(f, weight):
    options = {
        option: getattr(f, option) for option in ("blocks", "paired", "leaves", "tree") if hasattr(f, option)
    }
    ranks = (f.rank,) if isinstance(f, CP) else f.ranks
    return type(f).from_dense(weight, f.in_modes, f.out_modes, ranks=ranks, **options)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("tt", "tucker", "ht"))])
def test_what_has_the_form_is_found_again(name):
    torch.manual_seed(1)
    f = small()[name]
    weight = f.to_dense().detach()
    again = refitted(f, weight)
    assert again.error < 1e-12
    torch.testing.assert_close(again.to_dense(), weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_of_zeros_is_fitted(name):
    found = refitted(small()[name], torch.zeros(12, 12, dtype=torch.float64))
    assert found.error == 0


def test_ranks_may_be_of_numpy():
    for ranks in (np.int64(2), np.array([2, 2])):
        assert TT(SMALL_IN, SMALL_OUT, ranks).ranks == (2, 2)
    assert Tucker(SMALL_IN, SMALL_OUT, np.int64(2)).ranks == (2, 2, 2)


@pytest.mark.parametrize("name", ["tr", "bt", "cp", "cp-paired"])
def test_alternating_least_squares_come_near(name):
    """From anywhere to within some percent (the problem has local minima), from nearby to the point itself."""
    torch.manual_seed(1)
    f = small()[name]
    weight = f.to_dense().detach()
    assert refitted(f, weight).error < 0.1
    with torch.no_grad():
        for core in f.cores:
            core += 0.01 * torch.randn_like(core)
    before = ((f.to_dense() - weight).norm() / weight.norm()).item()
    assert f.fit(weight, sweeps=1000, tolerance=0).error < min(1e-3 * before, 1e-4)


@pytest.mark.parametrize(
    ("make", "truncations"),
    [
        (lambda w, **o: TT.from_dense(w, SMALL_IN, SMALL_OUT, **o), 2),
        (lambda w, **o: Tucker.from_dense(w, SMALL_IN, SMALL_OUT, **o), 3),
        (lambda w, **o: HT.from_dense(w, SMALL_IN, SMALL_OUT, **o), 3),
        (lambda w, **o: HT.from_dense(w, SMALL_IN, SMALL_OUT, leaves="interleaved", **o), 9),
    ],
    ids=["tt", "tucker", "ht", "ht-interleaved"],
)
@pytest.mark.filterwarnings("ignore:.*largest useful one")
def test_errors_stay_within_their_bounds(make, truncations):
    """Given eps, the error is at most eps; given ranks, at most sqrt(truncations) times the best of these ranks."""
    torch.manual_seed(2)
    weight = torch.randn(12, 12, dtype=torch.float64)
    for eps in (0.9, 0.5, 0.1, 1e-10):
        assert make(weight, eps=eps).error <= eps * (1 + 1e-12)
    near = make(weight, ranks=2).to_dense().detach()
    noisy = near + 1e-3 * torch.randn_like(near)
    assert make(noisy, ranks=2).error * noisy.norm() <= math.sqrt(truncations) * (noisy - near).norm()


def test_als_formats_grow_until_they_are_within_eps():
    torch.manual_seed(4)
    weight = CP(SMALL_IN, SMALL_OUT, 2).to(torch.float64).to_dense().detach()
    found = CP.from_dense(weight, SMALL_IN, SMALL_OUT, eps=1e-3)
    assert found.error <= 1e-3
    with pytest.raises(ValueError, match="is not reached with fewer parameters"):
        CP.from_dense(torch.randn(12, 12, dtype=torch.float64), SMALL_IN, SMALL_OUT, eps=1e-9)


def test_wasteful_ranks_are_named():
    with pytest.warns(UserWarning, match="TT: rank 9 at bond 1 .* the largest useful one is 6"):
        TT(SMALL_IN, SMALL_OUT, (9, 2))
    with pytest.warns(UserWarning, match="HT: rank 5 at node 0 .* useful one is 4"):
        HT((4, 8), (1, 8), (5, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"pairs each input mode .* 2 in_modes \[2, 3\] and 1 out_modes"):
        TT((2, 3), (6,), 2)
    with pytest.raises(ValueError, match=r"TT takes 2 ranks .* got \[2\]"):
        TT(SMALL_IN, SMALL_OUT, [2])
    with pytest.raises(ValueError, match="in_modes must be one or more factors"):
        CP((2, 0), (3,), 2)
    with pytest.raises(ValueError, match="leaves 0 to 2 in ascending order"):
        HT(SMALL_IN, SMALL_OUT, 2, tree=((0, 2), 1))
    with pytest.raises(ValueError, match="'paired', 'split' or 'interleaved'"):
        HT(SMALL_IN, SMALL_OUT, 2, leaves="both")
    with pytest.raises(ValueError, match="either ranks or eps"):
        TR.from_dense(torch.randn(12, 12), SMALL_IN, SMALL_OUT)
    with pytest.raises(ValueError, match=r"eps is a part of \|W\|, 0 or more; got -1"):
        HT.from_dense(torch.randn(12, 12), SMALL_IN, SMALL_OUT, eps=-1)
    with pytest.raises(ValueError, match=r"ranks of None are for paired=False. Got \[2, None, 2\]"):
        Tucker(SMALL_IN, SMALL_OUT, (2, None, 2))
    with pytest.raises(ValueError, match=r"weight must be \[12, 12\]; got \[12, 10\]"):
        TT.from_dense(torch.randn(12, 10), SMALL_IN, SMALL_OUT, ranks=2)


@pytest.fixture
def tensorly():
    """TensorLy on torch: other people's decompositions."""
    tl = pytest.importorskip("tensorly")
    pytest.importorskip("tensorly.decomposition")
    with tl.backend_context("pytorch"):
        yield tl


def decaying(*shape):
    """A tensor whose unfoldings have no gap in their singular values."""
    t = torch.randn(*shape, dtype=torch.float64)
    for k, n in enumerate(shape):
        t *= 0.6 ** torch.arange(n, dtype=torch.float64).view(
            [-1 if j == k else 1 for j in range(len(shape))]
        )
    return t


def test_cores_mean_what_tensorly_means(tensorly):
    f = {name: v.requires_grad_(False) for name, v in small().items()}
    tt = [core.reshape(r, m, n, -1) for core, r, m, n in zip(f["tt"].cores, (1, 3, 2), SMALL_IN, SMALL_OUT)]
    paired = (*(core.flatten(0, 1) for core in list(f["tucker"].cores)[:-1]), f["tucker"].cores[-1])
    kronecker = [core.flatten(0, 1) for core in f["cp-paired"].cores]
    apart = lambda t: t.view(2, 3, 3, 2, 2, 2).permute(0, 2, 4, 1, 3, 5)  # noqa: E731 from pairs (i j)
    for name, theirs in {
        "tt": tensorly.tt_matrix_to_tensor(tt),
        "cp": tensorly.cp_to_tensor((None, list(f["cp"].cores))),
        "cp-paired": apart(tensorly.cp_to_tensor((None, kronecker))),
        "tucker": apart(tensorly.tucker_to_tensor((paired[-1], list(paired[:-1])))),
        "tucker-split": tensorly.tucker_to_tensor(
            (f["tucker-split"].cores[-1], list(f["tucker-split"].cores)[:-1])
        ),
        "tr": tensorly.tr_tensor.tr_to_tensor(list(f["tr"].cores)),
    }.items():
        torch.testing.assert_close(f[name].to_dense(), theirs.reshape(12, 12), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 2), (6, 4)])
def test_tt_svd_is_tensorlys(tensorly, ranks):
    weight = decaying(*SMALL_IN, *SMALL_OUT).reshape(12, 12)
    theirs = tensorly.decomposition.tensor_train_matrix(weight.view(*SMALL_IN, *SMALL_OUT), (1, *ranks, 1))
    theirs = tensorly.tt_matrix_to_tensor(theirs).reshape(12, 12)
    ours = TT.from_dense(weight, SMALL_IN, SMALL_OUT, ranks=ranks)
    torch.testing.assert_close(ours.to_dense(), theirs, rtol=0, atol=1e-12)
    assert ours.error == pytest.approx(((weight - theirs).norm() / weight.norm()).item(), rel=1e-9)


@pytest.mark.parametrize("ranks", [(1, 1, 1, 1, 1), (2, 2, 1, 3, 2), (2, 2, 2, 2, 2)])
def test_hosvd_is_within_its_bound_of_tensorlys_best(tensorly, ranks):
    """Higher-order orthogonal iteration is no better than the best, ours at most sqrt(d) worse than the best."""
    weight = decaying(*SMALL_IN, 4, 3).reshape(12, 12)
    core, factors = tensorly.decomposition.tucker(weight.view(*SMALL_IN, 4, 3), ranks, tol=1e-12)
    theirs = tensorly.tucker_to_tensor((core, factors)).reshape(12, 12)
    ours = Tucker.from_dense(weight, SMALL_IN, (4, 3), ranks=ranks, paired=False).error
    best = ((weight - theirs).norm() / weight.norm()).item()
    assert best * (1 - 1e-9) <= ours <= math.sqrt(5) * best


@pytest.mark.parametrize("rank", [1, 3])
def test_alternating_least_squares_are_as_good_as_tensorlys(tensorly, rank):
    weight = decaying(*SMALL_IN, 4, 3).reshape(12, 12)
    theirs = tensorly.decomposition.parafac(
        weight.view(*SMALL_IN, 4, 3), rank, n_iter_max=500, tol=1e-10, init="random", random_state=0
    )
    theirs = tensorly.cp_to_tensor(theirs).reshape(12, 12)
    ours = CP.from_dense(weight, SMALL_IN, (4, 3), ranks=rank).error
    assert ours <= 1.1 * ((weight - theirs).norm() / weight.norm()).item()


CHANGES = {
    "in place": lambda f: f.cores[1].mul_(2),
    "through .data": lambda f: f.cores[0].data.add_(1),
    "load_state_dict": lambda f: f.load_state_dict({k: v + 1 for k, v in f.state_dict().items()}),
    "reset": lambda f: f.reset_parameters(),
    "double": lambda f: f.double(),
    "another parameter": lambda f: f.cores.__setitem__(0, torch.nn.Parameter(f.cores[0] * 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_kept_of_a_lowering_is_made_anew_when_a_core_changes(change):
    f = TT((2, 3, 2), (3, 2, 2), 2)
    with torch.no_grad():
        kept = f.lower_once()
        assert f.lower_once() is kept
        CHANGES[change](f)
        torch.testing.assert_close(f.lower_once(), f.lower(), rtol=0, atol=0)
        assert f.lower_once() is not kept
    assert f.lower_once().a.requires_grad
    with torch.inference_mode():
        inside = f.lower_once()
    with torch.no_grad():
        assert f.lower_once() is not inside  # whose tensors autograd could not save


def test_what_is_kept_of_a_lowering_stays_out_of_torch_func_and_of_copies():
    f = TT((2, 3, 2), (3, 2, 2), 2)
    x = torch.randn(4, 12)
    with torch.no_grad():
        right = x @ f.to_dense()
        ours = torch.func.vmap(lambda row: row @ f.lower_once().to_dense())(x)
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-5)
        kept = f.lower_once()
        torch.testing.assert_close(x @ kept.to_dense(), right, rtol=0, atol=1e-5)
        cores = {name: value.detach() for name, value in f.named_parameters()}

        def lowered(cores):
            return torch.func.functional_call(f, cores, (), tie_weights=False)

        with mock.patch.object(TT, "forward", lambda self: self.lower_once().to_dense(), create=True):
            _, tangent = torch.func.jvp(lowered, (cores,), (cores,))
        torch.testing.assert_close(
            tangent, 3 * f.to_dense(), rtol=1e-4, atol=1e-5
        )  # of degree 3 in three cores
        for copied in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
            assert copied._lowered is None
            torch.testing.assert_close(copied.lower_once().a, kept.a, rtol=0, atol=0)
