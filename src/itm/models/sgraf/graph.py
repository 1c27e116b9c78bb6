"""Graph reasoning over the similarity vectors of a pair (SGR).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, section
3.3. Shapes are those of `itm.models.sgraf.nodes`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itm.layers.functional import for_products, full, full_precision, xavier_
from itm.models.sgraf.nodes import real

Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # M^T, u, Wg and its bias


class GraphStep(nn.Module):
    """One step of graph reasoning: E = softmax((Wq X)(Wk X)^T), X <- relu(Wg E X) (equation 6).

    There is neither a factor 1/sqrt(K) nor a residual. The softmax over the second node ignores
    terms that depend on the first node only, so Wq and Wk act as one matrix:
    E = softmax((X M + u) X^T) with M = Wq^T Wk and u = bq^T Wk. The key's bias has no effect.
    """

    def __init__(self, sim_dim: int):
        super().__init__()
        self.query = xavier_(nn.Linear(sim_dim, sim_dim))
        self.key = xavier_(nn.Linear(sim_dim, sim_dim))
        self.graph = xavier_(nn.Linear(sim_dim, sim_dim))
        self.key.bias.requires_grad_(False)  # has no effect; kept to load published weights

    def weights(self) -> Weights:
        """Compute M^T (K, K) and u (K,), and return Wg and its bias, all as products take them."""
        key = self.key.weight.T
        return (
            for_products(key @ self.query.weight),
            for_products(key @ self.query.bias),
            for_products(self.graph.weight),
            for_products(self.graph.bias),
        )

    def edges(self, x: Tensor) -> Tensor:
        """Compute the weights (P, n, n) of all nodes for each node; rows sum to 1."""
        matrix, offset, _, _ = self.weights()
        return attend(for_products(x), None, matrix, offset, None)[1]

    def forward(
        self,
        x: Tensor,
        nodes: int | None = None,
        mask: Tensor | None = None,
        weights: Weights | None = None,
    ) -> Tensor:
        """Apply the step: (P, n, K) -> the first m = `nodes` nodes, (P, m, K).

        The mask (P, 1, n) excludes nodes. `weights` is from the method of that name; None =
        computed here.
        """
        inputs = for_products(x), *(weights or self.weights())
        with torch.autocast(x.device.type, enabled=False):
            reasoned: Tensor = Reasoning.apply(nodes, mask, *inputs)
        return reasoned


class Reasoning(torch.autograd.Function):
    """Implement a step with few passes over the nodes: their three gradients add up in place."""

    @staticmethod
    def forward(
        ctx: Any,
        nodes: int | None,
        mask: Tensor | None,
        x: Tensor,
        matrix: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        """Compute the first m = `nodes` nodes (P, m, K); all but the softmax in the type of x."""
        query, edges = attend(x, nodes, matrix, offset, mask)
        read = edges.to(x.dtype) @ x
        out = torch.addmm(bias, read.flatten(0, 1), weight.T).relu_().view_as(read)
        ctx.save_for_backward(x, matrix, weight, query, edges, read, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the tensors; that of the softmax is computed in float32."""
        x, matrix, weight, query, edges, read, out = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(gradient, out, 0).flatten(0, 1)  # (P m, K)
        by_weight, by_bias = g.T @ read.flatten(0, 1), g.sum(0)
        by_read = (g @ weight).view_as(read)
        by_edges = full(by_read @ x.mT)
        by_scores = torch.ops.aten._softmax_backward_data(by_edges, edges, -1, edges.dtype)
        by_scores = by_scores.to(x.dtype)
        by_x = (edges.to(x.dtype).mT @ by_read).baddbmm_(by_scores.mT, query)
        by_query = (by_scores @ x).flatten(0, 1)  # (P m, K)
        first = slice(query.shape[1])
        by_matrix = by_query.T @ x[:, first].flatten(0, 1)
        if query.shape == x.shape:
            by_x.flatten(0, 1).addmm_(by_query, matrix)
        else:
            by_x[:, first] += (by_query @ matrix).view_as(query)
        return None, None, by_x, by_matrix, by_query.sum(0), by_weight, by_bias


@full_precision
def attend(
    x: Tensor, nodes: int | None, matrix: Tensor, offset: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute X M + u (P, m, K) of the first m = `nodes` of n nodes, and their edges (P, m, n).

    `matrix` is M^T, as `linear` takes it. Edges are in at least float32; those of nodes that the
    mask (P, 1, n) excludes are 0.
    """
    # Contiguous, because products without gradients multiply the rows of a strided tensor by one
    # copy of the weight for each pair.
    first = x[:, :nodes].contiguous()
    query = torch.addmm(offset, first.flatten(0, 1), matrix.T).view_as(first)
    scores = real(full(query @ x.mT), mask, float("-inf"))
    return query, torch.softmax(scores, dim=-1)


class GraphReasoning(nn.Module):
    """SGR (section 3.3): `sgr_steps` steps over the fully connected nodes; the result is node 0.

    Args:
        sim_dim: width K.
        sgr_steps: number of steps; each has its own weights.
    """

    def __init__(self, sim_dim: int, sgr_steps: int = 3):
        super().__init__()
        self.steps = nn.ModuleList(GraphStep(sim_dim) for _ in range(sgr_steps))

    def reducer(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Return `forward` with the steps' weights computed once for many groups of nodes."""
        weights = [step.weights() for step in self.steps]  # type: ignore[operator]
        return partial(self.forward, weights=weights)

    def forward(
        self,
        nodes: Tensor,
        mask: Tensor | None = None,
        weights: Sequence[Weights | None] | None = None,
    ) -> Tensor:
        """Reduce the nodes (I, C, n, K) of each pair to one vector (I, C, K); mask (C, n)."""
        x = nodes.flatten(0, 1)  # (P, n, K)
        if mask is not None:
            mask = mask.expand(len(nodes), -1, -1).flatten(0, 1)[:, None]  # (P, 1, n)
        weights = weights or [None] * len(self.steps)
        for step, own in zip(self.steps[:-1], weights[:-1], strict=True):
            x = step(x, mask=mask, weights=own)
        x = self.steps[-1](x, nodes=1, mask=mask, weights=weights[-1])
        return x.view(*nodes.shape[:2], -1)

    def edges(self, nodes: Tensor) -> Tensor:
        """Compute the edges of all steps: (I, C, n, K) -> (I, C, steps, n, n); rows sum to 1."""
        x, found = nodes.flatten(0, 1), []
        for step in self.steps:
            found.append(step.edges(x))  # type: ignore[operator]
            x = step(x)
        return torch.stack(found, 1).unflatten(0, nodes.shape[:2])
