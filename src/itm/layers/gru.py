"""A GRU over packed words with few matrix products, for training on a CPU.

torch trains a packed GRU on a CPU with a product and a zero-filled copy per time step and gate
input. Here all inputs share one product, and so do the gradients of each weight; only the recurrent
product remains in the loop over time. The numbers equal torch's up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence


def run_gru(rnn: nn.GRU, words: Tensor, sizes: Tensor) -> Tensor:
    """Compute the states of a GRU for packed words, as `rnn(PackedSequence(words, sizes))` does.

    Args:
        rnn: any number of layers, one or two directions; without dropout between the layers.
        words: (W, F) inputs, step after step, the longest sequences first within a step.
        sizes: (T,) int64 on the host, number of sequences with a word at each step.

    Returns:
        (W, H), or (W, 2 H) forward and backward states of a bidirectional GRU.
    """
    learns = torch.is_grad_enabled() and (words.requires_grad or rnn.weight_hh_l0.requires_grad)
    if words.device.type != "cpu" or not learns or torch.is_autocast_enabled("cpu"):
        states: Tensor = torch_gru(rnn, PackedSequence(words, sizes)).data
        return states
    counts = sizes.tolist()
    for layer in range(rnn.num_layers):
        outputs = []
        for suffix in ("", "_reverse") if rnn.bidirectional else ("",):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [getattr(rnn, f"{name}_l{layer}{suffix}") for name in names]
            outputs.append(PackedGRU.apply(words, counts, suffix == "_reverse", *weights))
        words = torch.cat(outputs, 1) if rnn.bidirectional else outputs[0]
    return words


def torch_gru(rnn: nn.GRU, x: Any) -> Any:
    """Compute the states of a GRU by torch, for a tensor or a `PackedSequence`, in their form.

    Under any autocast, cuDNN computes a GRU in float16 (ATen/cudnn/AutocastRNN.cpp). 16-mixed
    scales the loss for that, bf16-mixed does not: gradients below 6e-8, usual for a loss that is a
    mean, would become 0. So under bfloat16, a GRU on a device is computed in float32.
    """
    weight = next(rnn.parameters())
    kind = weight.device.type
    lowered = kind != "cpu" and torch.is_autocast_enabled(kind)
    if not lowered or torch.get_autocast_dtype(kind) == torch.float16:
        return rnn(x)[0]
    with torch.autocast(kind, enabled=False):
        return rnn(x.to(weight.dtype))[0]


@torch.compiler.disable  # it cannot compile a GRU, and would unroll the loop over the steps
def states_of(rnn: nn.GRU, x: Tensor) -> Tensor:
    """Compute the states (N, P, H) of a GRU of one direction for N sequences (N, P, F)."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():  # as `run_gru` would
        states: Tensor = torch_gru(rnn, x)
        return states
    count, size = x.shape[:2]
    words = run_gru(rnn, x.transpose(0, 1).flatten(0, 1), torch.full((size,), count))
    return words.unflatten(0, (size, count)).transpose(0, 1)


class PackedGRU(torch.autograd.Function):
    """One layer and direction: (W, F) inputs -> (W, H) states.

    r, z = sigmoid(W_i x + b_i + W_h h + b_h), n = tanh(W_n x + b_n + r * q) with q = U_n h + c_n,
    h' = n + z * (h - n).
    """

    @staticmethod
    def forward(
        ctx: Any,
        words: Tensor,
        sizes: Sequence[int],
        reverse: bool,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> Tensor:
        """Run over the steps, and keep gates, candidates and previous states."""
        width = weight_hh.shape[1]
        inputs = torch.addmm(bias_ih, words, weight_ih.T)  # (W, 3 H)
        before, out = words.new_empty(2, len(words), width)
        gates = words.new_empty(len(words), 2 * width)  # r, z
        candidates, recurrent = words.new_empty(2, len(words), width)  # n, q
        for rows, previous in steps(sizes, reverse):
            hidden, given = before[rows], inputs[rows]
            count = previous.stop - previous.start
            hidden[:count] = out[previous]
            hidden[count:] = 0
            sums = torch.addmm(bias_hh, hidden, weight_hh.T)
            gate = torch.add(
                given[:, : 2 * width], sums[:, : 2 * width], out=gates[rows]
            ).sigmoid_()
            recurrent[rows] = sums[:, 2 * width :]
            candidate = torch.mul(gate[:, :width], recurrent[rows], out=candidates[rows])
            candidate.add_(given[:, 2 * width :]).tanh_()
            torch.lerp(candidate, hidden, gate[:, width:], out=out[rows])
        ctx.save_for_backward(words, weight_ih, weight_hh, before, gates, candidates, recurrent)
        ctx.sizes, ctx.reverse = sizes, reverse
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Run back over the steps; the weights' gradients are one product each."""
        words, weight_ih, weight_hh, before, gates, candidates, recurrent = ctx.saved_tensors
        width = weight_hh.shape[1]
        reset, update = gates.chunk(2, 1)
        # Derivatives of h' by the four sums, in the order q, r, z, n: the first three belong to the
        # recurrent weight, which is put in this order, and the last three to that of the inputs.
        slopes = words.new_empty(len(words), 4, width)
        by_candidate = torch.mul(1 - update, 1 - candidates.square(), out=slopes[:, 3])
        torch.mul(by_candidate, reset, out=slopes[:, 0])
        torch.mul((before - candidates) * update, 1 - update, out=slopes[:, 2])
        torch.mul(slopes[:, 0] * recurrent, 1 - reset, out=slopes[:, 1])
        weight = weight_hh.roll(width, 0)
        above = gradient.clone()  # of every state, from the output and from the next step
        sums = slopes.flatten(1)  # becomes the gradient of the sums, (W, 4 H)
        for rows, previous in reversed(list(steps(ctx.sizes, ctx.reverse))):
            state = above[rows]
            slopes[rows] *= state[:, None]
            count = previous.stop - previous.start
            if count:
                below = torch.addmm(state * update[rows], sums[rows][:, : 3 * width], weight)
                above[previous][: len(state)] += below[:count]
        by_hidden, by_input = sums[:, : 3 * width], sums[:, width:]
        bias = sums.sum(0)
        by_words = by_input @ weight_ih if ctx.needs_input_grad[0] else None
        return (
            by_words,
            None,
            None,
            by_input.T @ words,
            (by_hidden.T @ before).roll(-width, 0),
            bias[width:],
            bias[: 3 * width].roll(-width),
        )


def steps(sizes: Sequence[int], reverse: bool) -> list[tuple[slice, slice]]:
    """List the rows of each step and of the states that it continues, in the order of reading.

    A forward step of n sequences continues the first n of the step before; a backward step
    continues all sequences of the step after, and begins the others.
    """
    stops = torch.tensor(sizes).cumsum(0).tolist()
    rows = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    if reverse:
        rows.reverse()
    found, last = [], slice(0, 0)
    for own in rows:
        count = min(own.stop - own.start, last.stop - last.start)
        found.append((own, slice(last.start, last.start + count)))
        last = own
    return found
