"""Run VSRN's decoder with attention over all steps of teacher forcing as one function.

Automatic differentiation would launch about fifty small kernels for each word. Here the part of
the input gates that reads words is one product for all words, one product reads the decoder's state
for gates and attention, both products of a step add to the same sums, and the gradient of each
weight is one product over all words. The numbers equal step-by-step evaluation up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Decode(torch.autograd.Function):
    """The states (W, H) of N decoders, packed by step: captions longest first, W words in all.

    At a step with gates of the words g, state h, memory O and keys K of a caption's image:

        s = (0, c_q, g_rz + c_rz, g_n),  s_(query, q, r, z) += U h
        a = tanh(K + s_query),  alpha = softmax(a u + shut),  x = kept * alpha^T O
        s_(r, z, n) += V x;  r, z = sigmoid(s_rz),  n = tanh(s_n + r * s_q)
        h' = n + z * (h - n)

    Products run in the type of `keys`, everything else in the type of `hidden`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sizes: Sequence[int],
        gates: Tensor,
        hidden: Tensor,
        keys: Tensor,
        memory: Tensor,
        shut: Tensor,
        kept: Tensor | None,
        of_state: Tensor,
        bias: Tensor,
        of_context: Tensor,
        energy: Tensor,
    ) -> Tensor:
        """Run over the steps, and keep what the gradient needs.

        Args:
            ctx: where the gradient finds it.
            sizes: number of captions at each step, decreasing from N.
            gates: (W, 3 H) g, in the order r, z, n.
            hidden: (N, H) first states.
            keys: (N, R, H) K.
            memory: (N, R, H) O.
            shut: (N, R) added to the energies.
            kept: (W, H) dropout's factors for the context; None = no dropout.
            of_state: (4 H, H) U, in the order query, q, r, z.
            bias: (3 H,) c, in the order r, z, q.
            of_context: (3 H, H) V, in the order r, z, n.
            energy: (H,) u.
        """
        words, (captions, regions, width) = len(gates), keys.shape
        activations = keys.new_empty(words, regions, width)  # a
        alphas = keys.new_zeros(len(sizes), captions, regions)
        contexts, before = keys.new_empty(2, words, width)  # x, h
        sums = keys.new_empty(words, 5 * width)  # s: query, q, r, z, n
        sums[:, :width].zero_()
        sums[:, width : 2 * width] = bias[2 * width :]
        torch.add(gates[:, : 2 * width], bias[: 2 * width], out=sums[:, 2 * width : 4 * width])
        sums[:, 4 * width :] = gates[:, 2 * width :]
        out, new = hidden.new_empty(2, words, width)  # h', n
        opened = hidden.new_empty(words, 2 * width)  # r, z
        state, first = hidden, 0
        for step, size in enumerate(sizes):
            rows = slice(first, first + size)
            first += size
            state = state[:size]
            own = before[rows].copy_(state)
            sums[rows, : 4 * width].addmm_(own, of_state.T)
            query, by_state, by_both, by_context = sums[rows].split(
                [width, width, 2 * width, width], 1
            )
            a = torch.add(keys[:size], query[:, None], out=activations[rows]).tanh_()
            energies = torch.addmv(shut[:size].flatten(), a.flatten(0, 1), energy)
            alpha = torch.softmax(energies.view(size, regions), -1, out=alphas[step, :size])
            context = contexts[rows]
            torch.bmm(alpha[:, None], memory[:size], out=context[:, None])
            if kept is not None:
                context.mul_(kept[rows])
            sums[rows, 2 * width :].addmm_(context, of_context.T)
            gate = torch.sigmoid(by_both, out=opened[rows])
            candidate = torch.addcmul(by_context, gate[:, :width], by_state, out=new[rows]).tanh_()
            state = torch.lerp(candidate, state, gate[:, width:], out=out[rows])
        saved = (keys, memory, kept, of_state, of_context, energy)
        ctx.save_for_backward(*saved, activations, alphas, contexts, before, sums, opened, new)
        ctx.sizes, ctx.first = sizes, hidden
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back over the steps; the gradient of each weight is one product."""
        keys, memory, kept, of_state, of_context, energy, *rest = ctx.saved_tensors
        activations, alphas, contexts, before, sums, opened, new = rest
        words, captions, width = len(new), len(keys), keys.shape[-1]
        reset, update = opened.chunk(2, 1)
        # Derivatives of h' by the sums, in the order q, r, z, n; a step multiplies them by the
        # gradient of h'. The first part of `by_sums` becomes the gradient of the queries.
        slopes = opened.new_empty(words, 4, width)
        by_new = torch.mul(1 - update, 1 - new.square(), out=slopes[:, 3])
        torch.mul(by_new, reset, out=slopes[:, 0])
        torch.mul(before - new, update * (1 - update), out=slopes[:, 2])
        torch.mul(slopes[:, 0] * sums[:, width : 2 * width], 1 - reset, out=slopes[:, 1])
        by_sums = keys.new_empty(words, 5 * width)
        by_context = keys.new_zeros(len(ctx.sizes), captions, width)
        by_energy = torch.empty_like(activations[..., 0])
        # The energy's weight scales the gradients of queries and keys at the end.
        slope = torch.addcmul(activations.new_ones(()), activations, activations, value=-1)
        by_keys = torch.zeros_like(keys, dtype=gradient.dtype)
        scaled = of_state.clone()
        scaled[:width].mul_(energy[:, None])
        above = gradient.clone()  # of every state, from the output and from the next step
        by_first = torch.zeros_like(ctx.first)
        last = words
        for step in range(len(ctx.sizes) - 1, -1, -1):
            size = ctx.sizes[step]
            rows = slice(last - size, last)
            last -= size
            state = above[rows]
            torch.mul(slopes[rows], state[:, None], out=by_sums[rows, width:].unflatten(1, (4, -1)))
            context = torch.mm(by_sums[rows, 2 * width :], of_context, out=by_context[step, :size])
            if kept is not None:
                context.mul_(kept[rows])
            alpha = torch.bmm(memory[:size], context[..., None]).squeeze(-1)
            own = torch._softmax_backward_data(
                alpha, alphas[step, :size], -1, alpha.dtype, grad_input=by_energy[rows]
            )
            torch.bmm(own[:, None], slope[rows], out=by_sums[rows, None, :width])
            by_keys[:size].addcmul_(slope[rows], own[..., None])
            below = by_first if step == 0 else above[last - ctx.sizes[step - 1] : last]
            below[:size].add_(torch.mm(by_sums[rows, : 4 * width], scaled))
            below[:size].addcmul_(state, update[rows])
        by_sums[:, :width].mul_(energy)
        by_state = by_sums[:, : 4 * width]
        by_bias = by_sums[:, width : 4 * width].sum(0)
        pooled = torch.bmm(alphas.permute(1, 2, 0), by_context.transpose(0, 1))
        return (
            None,
            by_sums[:, 2 * width :],
            by_first,
            (by_keys * energy).to(keys.dtype),
            pooled,
            None,
            None,
            by_state.T @ before,
            torch.cat([by_bias[width:], by_bias[:width]]),
            by_sums[:, 2 * width :].T @ contexts,
            by_energy.flatten() @ activations.flatten(0, 1),
        )
