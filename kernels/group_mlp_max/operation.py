r"""A shared perceptron on the members of groups of points and the max over each group, nothing kept for each member.

    y^1_e = q_j + p_g                                entry e: row j in group g, standing count_e times
    z^l = a(BatchNorm_l(y^l)),   y^l+1 = W_l+1 z^l + b_l+1,   out_g = max over the entries e of g of z^L_e

with a(u) = u for u > 0 and negative_slope * u otherwise. The first layer of [x_j - x_g ; ..] is linear and so factors over
points: its caller makes q of M points and p of G centres. Everything after it is made of a tile of entries at a
time, and made again where it is needed again:

    statistics of y^l      one pass for each layer up to L - 1; sums weigh entries with their counts
    the last layer         mean and variance follow from the mean and the Gram matrix of z^L-1, and the max needs max_e y^L_e
                           alone, with the sign of gamma folded into W: kernels/norm/linear_norm_max, as are v and A below
    backward, l = L        dz^L-1_e = rows of W_L where e has the max - count_e (v + A (z_e - mean_z))
    backward, l < L        one pass for the sums of g^l = dz^l a' and of g^l y_hat^l, whose means are c1 and c2, then
                           dy_e = scale (g_e - count_e (c1 + c2 y_hat_e)),  dz^l-1 = W_l^T dy
    backward, l = 1        the sums G of g over the entries of each row and each group suffice; dp is as dq, c2 as well:
                           dq_j = scale (G_j - n_j c1 - c2 rstd (D_j + n_j (q_j - mean))),  D_j = sum_e count_e p_g
                           c2 = rstd (sum_j G_j (q_j - mean_q) + sum_g G_g (p_g - mean_p)) / n

A copy of a member (count > 1) costs nothing: the max does not see it and the sums weigh it; of an entry with the max and
its copies the first has the gradient. With noise, dropped rows (DropFeat: elements of the last layer) are left out of the
max and kept ones are not scaled; statistics see all; a group whose entries are all dropped, or with no entry, is 0. NaN wins
the max. The Gram matrix is taken about the mean that a Gaussian u would give.

Sources: PointNet++, Qi et al. 2017, section 3.2; EdgeConv, Wang et al. 2019; closed forms and factorisation derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from dropfold.kernels.backend.describe import describe
from dropfold.kernels.backend.gemm import mm, product_dtype
from dropfold.kernels.backend.gradients import first_derivatives_only
from dropfold.kernels.backend.inputs import check_floating, check_has_numbers, check_tensors
from dropfold.kernels.backend.launch import accumulator
from dropfold.kernels.group_mlp_max.first_layer import (
    count_entries,
    first_gradient,
    first_sums,
    identity,
)
from dropfold.kernels.group_mlp_max.operators import (
    compute_forward,
    compute_gradients,
    compute_moments,
    compute_sums,
)
from dropfold.kernels.noise.draw import Noise, draw, keep_scale
from dropfold.kernels.norm.batch_norm.operation import (
    BatchNorm,
    Statistics,
    affine,
    batch_statistics,
    check_channels,
    check_increasing,
    check_rows,
    fold_bias,
    fold_sign,
    norm_gradients,
    running_statistics,
    several_processes,
    sum_over_processes,
    update_running,
)
from dropfold.kernels.norm.evaluation.operation import group_mlp_eval, nothing_learns, scale_and_shift
from dropfold.kernels.norm.linear_max import (
    activate_maximum,
    dense_gradient,
    gradient_at_maximum,
    moments_of_linear,
)
from dropfold.kernels.norm.plain import activate, max_over_segments, normalize
from dropfold.kernels.points.clouds import check_rows as check_row_numbers
from dropfold.kernels.points.clouds import dense_ptr, to_rows
from dropfold.kernels.points.groups import Groups


def reference(
    q: Tensor,
    p: Tensor,
    groups: Groups,
    weights: Sequence[Tensor],
    norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None] | None = None,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The specification of `group_mlp_max` in torch: every member of every group is made, copies included, and autograd has
    the gradients; any type and device."""
    count = torch.ones_like(groups.idx) if groups.count is None else groups.count
    entry = torch.arange(len(count), device=q.device).repeat_interleave(count)
    owner = torch.arange(len(p), device=q.device).repeat_interleave(groups.ptr.diff())[entry]
    row, ptr = groups.idx[entry], torch.searchsorted(owner, torch.arange(len(p) + 1, device=q.device))

    first_bias, *biases = biases or [None] * len(norms)
    y = q[row] + p[owner] + (0 if first_bias is None else first_bias)
    z = y if norms[0] is None else activate(normalize(y, norms[0]), negative_slope)
    for weight, norm, bias in zip(weights, norms[1:], biases, strict=True):
        assert norm is not None
        u = normalize(torch.nn.functional.linear(z, weight, bias), norm)
        z = activate(u, negative_slope)
    scale = keep_scale(noise, _cloud_ptr(q, batch, batch_size), len(q), u.shape[1])
    maximum, argmax = max_over_segments(u, scale[row] > 0, ptr)
    out = torch.where(argmax >= 0, activate(maximum, negative_slope), 0)
    return (out, torch.where(argmax >= 0, entry[argmax], -1)) if return_argmax else out


class _Layer(NamedTuple):
    """What backward must know of a layer's BatchNorm and activation; training is None for a layer without them."""

    training: bool | None
    eps: float
    sync: bool
    slope: float


class _GroupMLPMax(torch.autograd.Function):
    """Of n weights and n + 1 each of gamma, beta, mean and var, with the last gamma >= 0 (`fold_sign`). Also returns the
    argmax, and mean, var and count of each layer that trains."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, p: Tensor, ptr: Tensor, idx: Tensor, owner: Tensor, count: Tensor, total: Tensor,
        clouds: Tensor, layers: tuple[_Layer, ...], noise: Noise | None, *parameters: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        n, slopes = len(layers) - 1, [layer.slope for layer in layers[:-1]]
        entries = (q, p, ptr, idx, owner, count)
        weights, rest = list(parameters[:n]), parameters[n:]
        gammas, betas, means, variances = (rest[i * (n + 1) : (i + 1) * (n + 1)] for i in range(4))
        vectors: list[Tensor] = []
        statistics: list[Tensor] = []
        for i, layer in enumerate(layers[:-1]):
            if layer.training is None:
                vectors.append(identity(q))
                continue
            mean, var = means[i], variances[i]
            if layer.training:
                mean, m2 = compute_moments(*entries, weights[:i], vectors, slopes[:i])
                mean, var, rows = batch_statistics(mean, m2, total, layer.sync)
                statistics += [mean, var, rows]
            scale, shift, rstd = affine(gammas[i], betas[i], mean, var, layer.eps)
            vectors.append(torch.stack([scale, shift, mean, rstd]))
        last, mean, var = layers[-1], means[-1], variances[-1]
        offset = torch.zeros_like(vectors[-1][0])
        if last.training and layers[-2].training is None:
            mean_y, m2 = compute_moments(*entries, [], [], [])
            offset = batch_statistics(mean_y, m2, total, last.sync).mean
        elif last.training:
            # Rounded to the products' type, so that z of an inactive unit is exactly -offset in it, too.
            offset = _gaussian_mean(gammas[-2], betas[-2], slopes[-1]).to(weights[-1].dtype).to(q.dtype)
        maximum, argmax, sum_z, outer = compute_forward(
            *entries, weights, vectors, slopes, offset, bool(last.training), *draw(noise, clouds, q.shape[0])
        )
        mean_z, everyone = sum_z, torch.ones_like(total)
        if last.training:
            wide = weights[-1].to(q.dtype)
            all_z = sum_over_processes(torch.cat([sum_z, total[None]]), last.sync)
            mean_z, everyone = all_z[:-1] / all_z[-1], all_z[-1]
            # About the mean of all processes; mean_z and sum_z themselves are about the offset.
            outer = outer - torch.outer(sum_z, mean_z) - torch.outer(mean_z, sum_z - total * mean_z)
            mean, var = moments_of_linear(wide, mean_z, sum_over_processes(outer, last.sync) / everyone)
            statistics += [mean + wide @ offset, var, everyone]
        scale, shift, rstd = affine(gammas[-1], betas[-1], mean, var, last.eps)
        ctx.save_for_backward(
            *entries, total, maximum, argmax, offset, scale, shift, mean, rstd, mean_z, sum_z, outer, everyone,
            *weights, *gammas, *vectors, *statistics[2::3],
        )  # fmt: skip
        ctx.layers = layers
        ctx.mark_non_differentiable(argmax, *statistics)
        return activate_maximum(maximum, argmax, scale, shift, last.slope), argmax, *statistics

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        layers, n = ctx.layers, len(ctx.layers) - 1
        entries, rest = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        total, maximum, argmax, offset, scale, shift, mean, rstd, mean_z, sum_z, outer, everyone = rest[:12]
        rest = rest[12:]
        weights, gammas, vectors = list(rest[:n]), rest[n : 2 * n + 1], list(rest[2 * n + 1 : 3 * n + 1])
        counts = iter(rest[3 * n + 1 :])
        count_of = [next(counts) if layer.training else everyone for layer in layers[:-1]]
        slopes, last, (q, p) = [layer.slope for layer in layers[:-1]], layers[-1], entries[:2]

        g, both = gradient_at_maximum(dout, maximum, argmax, scale, shift, mean, rstd, last.slope)
        dbeta, dgamma, c1, c2 = norm_gradients(both, everyone, bool(last.training), last.sync)
        dgammas, dbetas = [dgamma], [dbeta]
        wide, g = weights[-1].to(q.dtype), (scale * g).contiguous()
        matrix, constant = wide[:0, :0], torch.zeros_like(offset)
        if last.training:
            matrix, constant = dense_gradient(wide, mean_z, scale, rstd, c1, c2)
        last_gradient = (matrix, constant, offset, g, argmax)

        vectors = [torch.cat([v, torch.zeros_like(v[:2])]) for v in vectors]
        for i in range(n - 1, 0, -1):
            both = compute_sums(*entries, weights, vectors, slopes, *last_gradient, i)
            dbeta, dgamma, c1_i, c2_i = norm_gradients(both, count_of[i], layers[i].training, layers[i].sync)
            filled = torch.cat([vectors[i][:4], torch.stack([c1_i, c2_i])])
            vectors = [*vectors[:i], filled, *vectors[i + 1 :]]
            dgammas.append(dgamma)
            dbetas.append(dbeta)
        gq, d, gp, s, dlower = compute_gradients(*entries, weights, vectors, slopes, *last_gradient)

        # What the last weight has beside the maxima: the dense part, and the offset that z is less by.
        *dweights, dlast = dlower
        dy = g.sum(0)
        if last.training:
            local, slope_c = outer + torch.outer(mean_z, sum_z - total * mean_z), scale * c2 * rstd
            dlast = dlast - torch.outer(scale * c1, sum_z) - slope_c[:, None] * mm(wide, local.T)
            dy = dy - scale * c1 * total - slope_c * (wide @ (sum_z - total * mean_z))
        dweights = [*dweights, dlast + torch.outer(dy, offset)]

        if layers[0].training is not None:
            both = first_sums(q, p, gq, gp, vectors[0])
            dbeta, dgamma, c1, c2 = norm_gradients(both, count_of[0], layers[0].training, layers[0].sync)
            dgammas.append(dgamma)
            dbetas.append(dbeta)
            gq = first_gradient(gq, d, q, count_entries(entries[3], entries[5], q), vectors[0], c1, c2)
            gp = first_gradient(gp, s, p, count_entries(entries[4], entries[5], p), vectors[0], c1, c2)
        else:
            dgammas.append(gammas[0])
            dbetas.append(gammas[0])
        parameters = *dgammas[::-1], *dbetas[::-1]
        none = [None] * (2 * n + 2)
        return gq, gp, *[None] * 8, *(w.to(weights[0].dtype) for w in dweights), *parameters, *none


@overload
def group_mlp_max(
    q: Tensor, p: Tensor, groups: Groups, weights: Sequence[Tensor], norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None] | None = None, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def group_mlp_max(
    q: Tensor, p: Tensor, groups: Groups, weights: Sequence[Tensor], norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None] | None = None, *,
    batch: Tensor | None = None, batch_size: int | None = None, negative_slope: float = 0.0,
    noise: Noise | None = None, return_argmax: Literal[True],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip


def group_mlp_max(
    q: Tensor,
    p: Tensor,
    groups: Groups,
    weights: Sequence[Tensor],
    norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None] | None = None,
    *,
    batch: Tensor | None = None,
    batch_size: int | None = None,
    negative_slope: float = 0.0,
    noise: Noise | None = None,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """A perceptron on the members of groups and the max over each; see the head of this file for the formula.

    Args:
        q: [M, C_1], what the first linear map makes of each point.
        p: [G, C_1], what it adds in each group.
        groups: rows of q, and how often an entry stands.
        weights: [C_l+1, C_l] of the layers 2 .. L, at least one.
        norms: of the layers 1 .. L. The first may be None: then y^1 itself, with no activation, is the first weight's input.
        biases: [C_l] or None of the layers 1 .. L; in training they cancel and enter the running means.
        batch: [M], the clouds of noise; without it, `batch_size` clouds of equal size (None: one).
        negative_slope: of the LeakyReLU (0: ReLU, 1: none); not negative, the activation must increase.
        noise: one draw of noise for the rows of q; what it drops is left out of the max.
        return_argmax: whether to return `(max, argmax)`.

    Returns:
        [G, C_L], in the type of the matrix products (q's, or autocast's); argmax is int64 [G, C_L], the entry of groups.idx
        that has the max, and -1 where a group has none or all were dropped.

    Raises:
        ValueError: shapes do not fit, a row number out of range, a decreasing activation, or training with a single entry.
    """
    biases = biases or [None] * len(norms)
    _check(q, p, groups, weights, norms, biases)
    check_increasing(negative_slope)
    if not return_argmax and noise is None and _nothing_learns(q, p, weights, norms, biases):
        return _evaluate(q, p, groups, weights, norms, biases, negative_slope)
    device, dtype = q.device.type, accumulator(q.dtype)
    half = product_dtype(q)
    entries, groups_n = groups.idx.shape[0], p.shape[0]
    if batch is None and batch_size and q.shape[0] % batch_size:
        raise ValueError(
            f"batch_size clouds of equal size make up q; got {len(q)} rows and batch_size {batch_size}."
        )
    owner = torch.arange(groups_n, dtype=torch.int32, device=q.device)
    owner = owner.repeat_interleave(groups.ptr[1:] - groups.ptr[:-1], output_size=entries)
    count = q.new_empty(0, dtype=dtype) if groups.count is None else groups.count.to(dtype).contiguous()
    total = q.new_full((), entries, dtype=dtype) if groups.count is None else count.sum()
    clouds = _cloud_ptr(q, batch, batch_size)

    last = norms[-1]
    assert last is not None
    sign, increasing = fold_sign(last)
    increasing = increasing._replace(beta=fold_bias(last, biases[-1]))
    with torch.autocast(device, enabled=False):
        folded = [*weights[:-1], sign.to(weights[-1].dtype)[:, None] * weights[-1]]
        folded = [weight.to(half).contiguous() for weight in folded]
        nothing = q.new_empty(0, dtype=dtype)
        gammas, betas, means, variances, layers = [], [], [], [], []
        for norm, bias in zip([*norms[:-1], increasing], [*biases[:-1], None], strict=True):
            running = None if norm is None else running_statistics(norm, dtype)
            gammas.append(nothing if norm is None else norm.gamma)
            betas.append(nothing if norm is None else fold_bias(norm, bias))
            means.append(nothing if running is None else running.mean)
            variances.append(nothing if running is None else running.var)
            layers.append(
                _Layer(None, 0.0, False, 1.0)
                if norm is None
                else _Layer(norm.training, norm.eps, norm.sync, negative_slope)
            )
        out, argmax, *statistics = _GroupMLPMax.apply(
            q.to(dtype).contiguous(), p.to(dtype).contiguous(), groups.ptr.contiguous(), groups.idx.contiguous(),
            owner, count, total, clouds, tuple(layers), noise, *folded, *gammas, *betas, *means, *variances,
        )  # fmt: skip
    for norm, bias in zip(norms, biases, strict=True):
        if norm is not None and norm.training:
            (mean, var, rows), statistics = statistics[:3], statistics[3:]
            update_running(norm, Statistics(sign * mean if norm is last else mean, var, rows), bias)
    return (out.to(half), argmax.long()) if return_argmax else out.to(half)


def _nothing_learns(
    q: Tensor, p: Tensor, weights: Sequence[Tensor], norms: Sequence[BatchNorm | None], biases: Sequence[Tensor | None]
) -> bool:  # fmt: skip
    return all(norm is None or nothing_learns(norm, None, q, p, *weights, *biases) for norm in norms)


def _evaluate(
    q: Tensor, p: Tensor, groups: Groups, weights: Sequence[Tensor], norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None], negative_slope: float,
) -> Tensor:  # fmt: skip
    """Where nothing learns: copies of an entry change no max."""
    vectors = []
    for norm, bias in zip(norms, biases, strict=True):
        if norm is None:
            one = q.new_ones(q.shape[1])
            vectors.append((one, torch.zeros_like(one) if bias is None else bias))
        else:
            vectors.append(scale_and_shift(norm, bias))
    scale, shift = (torch.cat(parts) for parts in zip(*vectors, strict=True))
    slopes = [1.0 if norm is None else negative_slope for norm in norms]
    return group_mlp_eval(q, p, groups.ptr, groups.idx, list(weights), scale, shift, slopes)


def _cloud_ptr(q: Tensor, batch: Tensor | None, batch_size: int | None) -> Tensor:
    """The clouds of the rows of q: those of `batch`, or `batch_size` of equal size."""
    if batch is not None:
        return to_rows(q, batch, batch_size)[1]
    return dense_ptr(batch_size or 1, q.shape[0] // (batch_size or 1), q.device)


def _gaussian_mean(gamma: Tensor, beta: Tensor, slope: float) -> Tensor:
    """The mean of a(u) for u of mean beta and standard deviation |gamma|."""
    sigma = gamma.abs()
    r = beta / (sigma + torch.finfo(sigma.dtype).tiny)
    density = torch.exp(-r * r / 2) / 2.5066282746310002  # sqrt(2 pi)
    positive = beta * torch.special.ndtr(r) + sigma * density
    return slope * beta + (1 - slope) * positive


def _check(
    q: Tensor, p: Tensor, groups: Groups, weights: Sequence[Tensor], norms: Sequence[BatchNorm | None],
    biases: Sequence[Tensor | None],
) -> None:  # fmt: skip
    check_floating(q=q, p=p, **{f"weights[{i}]": weight for i, weight in enumerate(weights)})
    check_tensors(q=q, ptr=groups.ptr, idx=groups.idx, count=groups.count)
    check_has_numbers("q", q)
    if groups.ptr.dtype != torch.int64 or groups.ptr.dim() != 1 or groups.idx.dim() != 1:
        raise ValueError(
            f"ptr [G + 1] and idx [E] must be int64; got ptr {describe(groups.ptr)}, idx {describe(groups.idx)}."
        )
    if q.dim() != 2 or p.dim() != 2 or q.shape[1] != p.shape[1] or groups.ptr.shape[0] != p.shape[0] + 1:
        raise ValueError(
            "q must be [M, C] and p [G, C] for the G groups of ptr [G + 1]; got q "
            f"{describe(q)}, p {describe(p)}, ptr {describe(groups.ptr)}."
        )
    if not weights or len(norms) != len(weights) + 1 or len(biases) != len(norms):
        raise ValueError(
            f"L - 1 weights go with L norms and L biases, L at least 2; got {len(weights)}, {len(norms)}, {len(biases)}."
        )
    channels = q.shape[1]
    for i, (norm, weight) in enumerate(zip(norms, [None, *weights], strict=True)):
        if weight is not None:
            if weight.dim() != 2 or weight.shape[1] != channels:
                raise ValueError(f"weights[{i - 1}] must be [C_out, {channels}]; got {describe(weight)}.")
            channels = weight.shape[0]
        if norm is not None:
            check_channels(channels, norm, q)
        elif i:
            raise ValueError("only the first of the norms may be None.")
    idx, count = groups.idx, groups.count
    for i, bias in enumerate(biases):
        width = q.shape[1] if i == 0 else weights[i - 1].shape[0]
        check_floating(q=q, **{f"biases[{i}]": bias})
        if bias is not None and bias.shape != (width,):
            raise ValueError(f"biases[{i}] must be [{width}]; got {describe(bias)}.")
    wrong_count = count is not None and (count.shape != idx.shape or count.dtype != torch.int64)
    if idx.dtype != torch.int64 or wrong_count:
        counts = "" if count is None else f", count {describe(count)}"
        raise ValueError(
            f"idx and count must be int64 [E], count may be None; got idx {describe(idx)}{counts}."
        )
    if torch.compiler.is_compiling():  # how many entries there are is known when the code runs
        return
    if idx.shape[0] < 2 and any(
        norm is not None and norm.training and not several_processes(norm.sync) for norm in norms
    ):
        check_rows(idx.shape[0] if count is None else int(count.sum()))
    if idx.is_cpu:
        check_row_numbers(idx, q.shape[0])
        if count is not None and count.numel() and int(count.min()) < 1:
            raise ValueError(f"counts must be 1 or more; got {int(count.min())}.")
        decreasing = bool((groups.ptr[1:] < groups.ptr[:-1]).any())
        if int(groups.ptr[0]) != 0 or int(groups.ptr[-1]) != idx.shape[0] or decreasing:
            raise ValueError(
                f"ptr must go up from 0 to the {idx.shape[0]} entries of idx; got {describe(groups.ptr)} from "
                f"{int(groups.ptr[0])} to {int(groups.ptr[-1])}."
            )
