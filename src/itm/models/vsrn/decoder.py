"""Run VSRN's decoder with attention over all steps of teacher forcing as one function.

Automatic differentiation would launch about fifty small kernels for each word. Here the part of
the input gates that reads words is one product for all words, one product reads the decoder's state
for gates and attention, and the gradient of each weight is one product over all words. The numbers
equal step-by-step evaluation up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Decode(torch.autograd.Function):
    """The states (W, H) of N decoders, packed by step: captions longest first, W words in all.

    At a step with gates of the words g, state h, memory O and keys K of a caption's image:

        s, a = U h + c, tanh(K + s_query),  alpha = softmax(a u + shut),  x = kept * alpha^T O
        n, r, z = g + V x;  r, z = sigmoid((r, z) + s_rz),  n = tanh(n + r * s_q)
        h' = n + z * (h - n)

    U and c hold the rows of r, z, q and the query; V and g those of n, r and z. Products run in the
    type of `keys`, everything else in the type of `hidden`.
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
            gates: (W, 3 H) g.
            hidden: (N, H) first states.
            keys: (N, R, H) K.
            memory: (N, R, H) O.
            shut: (N, R) added to the energies.
            kept: (W, H) dropout's factors for the context; None = no dropout.
            of_state: (4 H, H) U.
            bias: (4 H,) c.
            of_context: (3 H, H) V.
            energy: (H,) u.
        """
        words, (captions, regions, width) = len(gates), keys.shape
        activations = keys.new_empty(words, regions, width)  # a
        alphas = keys.new_zeros(len(sizes), captions, regions)
        contexts, before = keys.new_empty(2, words, width)  # x, h
        sums = keys.new_empty(words, 4 * width)  # s
        out, new = hidden.new_empty(2, words, width)  # h', n
        opened = hidden.new_empty(words, 2 * width)  # r, z
        state, first = hidden, 0
        for step, size in enumerate(sizes):
            rows = slice(first, first + size)
            first += size
            state = state[:size]
            before[rows] = state
            own = torch.addmm(bias, before[rows], of_state.T, out=sums[rows])
            a = torch.add(keys[:size], own[:, None, 3 * width :], out=activations[rows]).tanh_()
            energies = torch.addmv(shut[:size].flatten(), a.flatten(0, 1), energy)
            alpha = torch.softmax(energies.view(size, regions), -1, out=alphas[step, :size])
            torch.bmm(alpha[:, None], memory[:size], out=contexts[rows][:, None])
            if kept is not None:
                contexts[rows] *= kept[rows]
            given = torch.addmm(gates[rows], contexts[rows], of_context.T)
            gate = torch.add(given[:, width:], own[:, : 2 * width], out=opened[rows]).sigmoid_()
            candidate = torch.mul(gate[:, :width], own[:, 2 * width : 3 * width], out=new[rows])
            candidate.add_(given[:, :width]).tanh_()
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
        # Derivatives of h' by the sums, in the order n, r, z, q; a step multiplies them by the
        # gradient of h'. The last part of `by_sums` becomes the gradient of the queries.
        slopes = opened.new_empty(words, 4, width)
        by_new = torch.mul(1 - update, 1 - new.square(), out=slopes[:, 0])
        torch.mul(by_new, reset, out=slopes[:, 3])
        torch.mul(before - new, update * (1 - update), out=slopes[:, 2])
        torch.mul(slopes[:, 3] * sums[:, 2 * width : 3 * width], 1 - reset, out=slopes[:, 1])
        by_sums = keys.new_empty(words, 5 * width)
        by_context = keys.new_zeros(len(ctx.sizes), captions, width)
        by_energy = torch.zeros_like(activations[..., 0])
        before_tanh = (1 - activations.square()) * energy
        by_keys = torch.zeros_like(keys, dtype=gradient.dtype)
        below = gradient.new_zeros(0, width)
        last = words
        for step in range(len(ctx.sizes) - 1, -1, -1):
            size = ctx.sizes[step]
            rows = slice(last - size, last)
            last -= size
            state = gradient[rows].clone()
            state[: len(below)] += below
            by_gates = by_sums[rows, : 4 * width].unflatten(1, (4, width))
            torch.mul(slopes[rows], state[:, None], out=by_gates)
            context = torch.mm(by_sums[rows, : 3 * width], of_context)
            by_context[step, :size] = context if kept is None else context * kept[rows]
            alpha = torch.bmm(memory[:size], by_context[step, :size, :, None]).squeeze(-1)
            by_energy[rows] = torch._softmax_backward_data(
                alpha, alphas[step, :size], -1, alpha.dtype
            )
            query = before_tanh[rows].mul_(by_energy[rows, :, None])
            by_keys[:size] += query
            torch.sum(query, 1, out=by_sums[rows, 4 * width :])
            below = torch.mm(by_sums[rows, width:], of_state) + state * update[rows]
        by_state = by_sums[:, width:]
        pooled = torch.bmm(alphas.permute(1, 2, 0), by_context.transpose(0, 1))
        return (
            None,
            by_sums[:, : 3 * width],
            below.to(ctx.first.dtype),
            by_keys.to(keys.dtype),
            pooled,
            None,
            None,
            by_state.T @ before,
            by_state.sum(0),
            by_sums[:, : 3 * width].T @ contexts,
            by_energy.flatten() @ activations.flatten(0, 1),
        )
