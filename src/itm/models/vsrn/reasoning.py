"""VSRN's image side: reason over relations between regions, then form one vector per image.

Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019, sections 3.2 and 3.3.
"""

from torch import Tensor, nn

from itm.batch import Images
from itm.layers.batch_norm import batch_norm, masked_batch_norm
from itm.layers.functional import for_products, full, l2norm, last_state, xavier_
from itm.utils.checks import check_choice

EPS = 1e-12  # the original code divides by the plain norm


class GraphBlock(nn.Module):
    """Residual graph convolution: x_i + BN(W sum_j A_ij g(x_j)), A_ij = theta(x_i) . phi(x_j) / n.

    n is the image's number of regions; there is no softmax (section 3.2). The batch norm's weight
    starts at zero, so a block starts as the identity. Its statistics cover the real regions of the
    batch.

    Args:
        dim: width D.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.theta, self.phi, self.g, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = nn.BatchNorm1d(dim)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x (I, R, D), zero where the mask (I, R) is False, to the same shape, zero there."""
        count = mask.sum(1).clamp_min(1)[:, None, None]
        own = for_products(x)
        affinity = self.theta(own) @ self.phi(own).mT / count  # (I, R, R)
        affinity = affinity.masked_fill(~mask[:, None], 0)  # padding sends nothing
        received = self.out(affinity @ self.g(own))  # (I, R, D)
        return x + masked_batch_norm(self.norm, received, mask)


class RegionReasoning(nn.Module):
    """Linear -> graph blocks -> GRU over the regions in order -> optional batch norm.

    Args:
        img_dim: width F of the region features.
        dim: width D.
        num_gcn: number of graph blocks.
        region_norm: "columns" divides each of the D columns by its norm over the regions, before
            the graph blocks; "none" does not.
        final_bn: apply batch norm to the image vector.

    Raises:
        ValueError: `region_norm` is unknown.
    """

    def __init__(self, img_dim: int, dim: int, num_gcn: int, region_norm: str, final_bn: bool):
        super().__init__()
        check_choice("region_norm", region_norm, ("none", "columns"))
        self.region_norm = region_norm
        self.project = xavier_(nn.Linear(img_dim, dim))
        self.blocks = nn.ModuleList(GraphBlock(dim) for _ in range(num_gcn))
        self.rnn = nn.GRU(dim, dim, batch_first=True)
        self.norm = nn.BatchNorm1d(dim) if final_bn else None

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        """Compute image vectors (I, D), not normalised yet, and region vectors (I, R, D)."""
        regions, mask, _ = images
        x = full(self.project(regions)).masked_fill(~mask[..., None], 0)  # (I, R, D)
        # Dim 1 is the regions: as in the published weights, each column is normalised over the
        # regions of its image, not each region vector.
        if self.region_norm == "columns":
            x = l2norm(x, dim=1, eps=EPS)
        for block in self.blocks:
            x = block(x, mask)
        x = l2norm(x, dim=1, eps=EPS)
        vector = last_state(self.rnn(x)[0], mask.sum(1))  # (I, D)
        return vector if self.norm is None else batch_norm(self.norm, vector), x
