"""torch's counter on fused networks: what the operators register, beside the counts of work and arithmetic."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dropfold.compress.cost.work import multiply_adds, work_of
from dropfold.kernels import flops, gru_sequence, kron_linear, lstm_sequence
from dropfold.kernels.points.knn import knn
from tests.compress.networks import OURS

K = {"dgcnn": (3, 64, 64, 128)}  # channels of each search


def counted(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter


@pytest.mark.parametrize("mode", ["evaluation", "gradients"])
@pytest.mark.parametrize("name", ["vanilla", "dgcnn", "ssg", "msg", "ssg-scenes", "msg-parts"])
def test_torch_counts_a_fused_network(name, mode):
    network, example = OURS[name]()
    work = 2 * multiply_adds(work_of(network, *example))
    searches = sum(2 * c * 2 * 48 * 48 for c in K.get(name, ()))
    with torch.set_grad_enabled(mode == "gradients"):
        counter = counted(lambda: network(*example))
    assert counter.get_total_flops() == work + searches


def test_every_operator_with_products_has_a_formula():
    """Those left out are activations, norms, pools, noise, gathers, and searches in three coordinates."""
    free = {
        "ball_query", "edge_conv_bwd", "edge_conv_fwd", "farthest_point_sample", "kept_by_nearest", "kept_points", "moments",
        "norm_apply", "norm_grad", "norm_pool_bwd", "norm_pool_fwd", "norm_sums", "three_nn", "three_nn_interpolate_bwd",
        "three_nn_interpolate_fwd", "uniform",
    }  # fmt: skip
    ours = {
        s.name.removeprefix("dropfold::")
        for s in torch._C._jit_get_all_schemas()
        if s.name.startswith("dropfold::")
    }
    assert {name for name in ours if not name.startswith("test")} == free | set(flops.OPERATIONS)


def test_searches_count_the_pairs_of_each_cloud():
    x, batch = torch.rand(30, 5), torch.tensor([0] * 10 + [1] * 20)
    assert counted(lambda: knn(x, 3, batch=batch)).get_total_flops() == 2 * 5 * (100 + 400)


def test_recurrent_products_count_the_cheaper_order():
    a, c = torch.rand(2, 3, 4), torch.rand(2, 5, 6)  # p 3, u 4, q 5, v 6
    one = 2 * min(3 * 5 * 6 + 3 * 4 * 6, 3 * 5 * 4 + 4 * 5 * 6)
    x = torch.rand(70, 15)
    assert counted(lambda: kron_linear(x, a, c)).get_total_flops() == 2 * 70 * one
    hidden = torch.rand(1, 1, 1), torch.rand(1, 8, 32)
    gx = torch.rand(7, 3, 32)
    assert counted(lambda: lstm_sequence(gx, *hidden)).get_total_flops() == 2 * 21 * 8 * 32
    hidden = torch.rand(1, 1, 1), torch.rand(1, 8, 24)
    assert counted(lambda: gru_sequence(torch.rand(7, 3, 24), *hidden)).get_total_flops() == 2 * 21 * 8 * 24


def test_a_training_step_counts_its_backward_pass():
    """Of linear maps: the inputs' gradients and the weights' cost as much as the product each; the first layer's input needs
    none."""
    network, example = OURS["dgcnn"]()
    network.train()
    forward = counted(lambda: network(*example)).get_total_flops()
    both = counted(lambda: network(*example).sum().backward()).get_total_flops()
    assert 2 * forward < both < 3.2 * forward
