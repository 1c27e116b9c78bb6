"""Graph reasoning over the similarity vectors of a pair (SGR).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021, section
3.3. Shapes are those of `itm.models.sgraf.nodes`.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from itm.layers.functional import full, xavier_
from itm.models.sgraf.nodes import real


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

    def matrix(self) -> tuple[Tensor, Tensor]:
        """Compute M (K, K) and u (K,), which depend on no node."""
        key = self.key.weight.T
        return key @ self.query.weight, key @ self.query.bias

    def edges(
        self,
        x: Tensor,
        nodes: int | None = None,
        mask: Tensor | None = None,
        matrix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute weights (P, m, n) of all n nodes for the first m = `nodes`; rows sum to 1.

        The weights of nodes that the mask (P, 1, n) excludes are 0. `matrix` is from the method of
        that name; None = computed here.
        """
        # Contiguous, because without gradients `linear` multiplies the rows of a strided tensor by
        # one copy of the weight for each pair.
        query = nn.functional.linear(x[:, :nodes].contiguous(), *(matrix or self.matrix()))
        return torch.softmax(real(full(query @ x.mT), mask, float("-inf")), dim=-1)

    def forward(
        self,
        x: Tensor,
        nodes: int | None = None,
        mask: Tensor | None = None,
        matrix: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Apply the step: (P, n, K) -> the first m = `nodes` nodes, (P, m, K); see `edges`."""
        return self.graph(self.edges(x, nodes, mask, matrix).to(x.dtype) @ x).relu()


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
        """Return `forward` with the steps' matrices computed once for many groups of nodes."""
        matrices = [step.matrix() for step in self.steps]  # type: ignore[operator]
        return partial(self.forward, matrices=matrices)

    def forward(
        self,
        nodes: Tensor,
        mask: Tensor | None = None,
        matrices: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    ) -> Tensor:
        """Reduce the nodes (I, C, n, K) of each pair to one vector (I, C, K); mask (C, n)."""
        x = nodes.flatten(0, 1)  # (P, n, K)
        if mask is not None:
            mask = mask.expand(len(nodes), -1, -1).flatten(0, 1)[:, None]  # (P, 1, n)
        matrices = matrices or [None] * len(self.steps)
        for step, matrix in zip(self.steps[:-1], matrices[:-1], strict=True):
            x = step(x, mask=mask, matrix=matrix)
        x = self.steps[-1](x, nodes=1, mask=mask, matrix=matrices[-1])
        return x.view(*nodes.shape[:2], -1)

    def edges(self, nodes: Tensor) -> Tensor:
        """Compute the edges of all steps: (I, C, n, K) -> (I, C, steps, n, n); rows sum to 1."""
        x, found = nodes.flatten(0, 1), []
        for step in self.steps:
            found.append(step.edges(x))  # type: ignore[operator]
            x = step(x)
        return torch.stack(found, 1).unflatten(0, nodes.shape[:2])
