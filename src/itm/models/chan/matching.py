"""Match words with regions by their largest cosine, for all images and captions at once.

Pan, Wu, Zhang: Fine-grained Image-Text Matching by Cross-modal Hard Aligning Network, CVPR 2023,
sections 3.2 and 3.3. One matrix product S compares the regions of a few images with the words of
all captions, packed without padding; its maximum over the regions leaves one value per image and
word. No tensor holds a vector per pair and word, and S itself is freed block by block: the gradient
needs only the place of each maximum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from itm.batch import Encoded
from itm.layers.attention_math import AGGREGATIONS, aggregate, gram, split
from itm.layers.cross_attention import CACHE, LAUNCH, unless_all_real
from itm.layers.functional import full, masked_softmax
from itm.layers.packing import pack
from itm.utils.checks import check_choice

CODINGS = ("VHA", "THA", "VSA")
POOLINGS = (*AGGREGATIONS, "Softmax")
EPS = 1e-8


@dataclass(frozen=True)
class HardAlignment:
    """Compute scores of image-caption pairs from region and word vectors.

    S[r, l] is the product of region r and word l of a pair. `coding` turns S into one value u per
    word or per region, `pooling` turns the values into a score. Padding takes no part in either.

    Args:
        coding: "VHA", each word takes its best region, u_l = max_r S[r, l] (both published
            recipes); "THA", each region takes its best word, u_r = max_l S[r, l]; "VSA", each
            region attends softly to the words, a_r = sum_l softmax_l(S[r, l] / alpha) w_l,
            u_r = <a_r, v_r> / |a_r|.
        pooling: "LogSumExp", log sum exp(u / beta), so about 10 times a cosine (published with a
            GRU); "Mean" (published with BERT); "Max"; "Sum"; or "Softmax",
            sum of softmax(u / beta) u.
        alpha: temperature of "VSA".
        beta: temperature of "LogSumExp" and "Softmax".
        scale_lse: multiply "LogSumExp" by beta, so the score has the scale of a cosine. The ranking
            is the same, but a margin has another effect.

    Raises:
        ValueError: an option is unknown, or a temperature is not above 0.
    """

    coding: str = "VHA"
    pooling: str = "LogSumExp"
    alpha: float = 0.1
    beta: float = 0.1
    scale_lse: bool = False

    def __post_init__(self) -> None:
        check_choice("coding", self.coding, CODINGS)
        check_choice("pooling", self.pooling, POOLINGS)
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0 (it is a divisor), got {value}")

    @torch.compiler.disable(recursive=False)
    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C) from region vectors (I, R, D) and word vectors (C, L, D)."""
        assert images.parts is not None
        blocking = CACHE if images.parts.device.type == "cpu" else LAUNCH
        packed = pack(captions, blocking.slack)
        texts = full(packed.words).split(packed.sizes)
        groups = list(zip(texts, packed.shapes, packed.masks, strict=True))
        step = max(1, blocking.product // max(1, images.parts.shape[1] * len(packed.words)))
        rows = []
        for regions, mask in split(step, images.parts, unless_all_real(images.mask)):
            # Only this product runs in the trainer's precision.
            products = (regions.flatten(0, 1) @ packed.words.T).view(*regions.shape[:2], -1)
            with torch.autocast(regions.device.type, enabled=False):
                rows.append(self._scores(full(products), mask, groups))
        return torch.cat(rows).index_select(1, packed.inverse)

    def _scores(self, products: Tensor, mask: Tensor | None, groups: list[tuple]) -> Tensor:
        """Score I images with all groups of captions.

        Args:
            products: S (I, R, W) of all words.
            mask: (I, R) real regions, None = all.
            groups: for each group of n captions, its words (n * L, D), its shape (n, L) and its
                mask (n, L), None = all real.

        Returns:
            (I, C), captions in group order.
        """
        sizes = [n * size for _, (n, size), _ in groups]
        if self.coding == "VHA":
            values = largest(products, 1, None if mask is None else mask[:, :, None])  # (I, W)
            return torch.cat(
                [
                    self._pool(u.unflatten(1, shape), words)
                    for u, (_, shape, words) in zip(values.split(sizes, 1), groups, strict=True)
                ],
                1,
            )
        regions = None if mask is None else mask[:, None]  # (I, 1, R)
        columns = []
        for part, (text, shape, words) in zip(products.split(sizes, 2), groups, strict=True):
            part = part.unflatten(2, shape).transpose(1, 2)  # (I, n, R, L)
            real = None if words is None else words[:, None]  # (n, 1, L)
            if self.coding == "THA":
                values = largest(part, 3, real)
            else:
                values = soft(part, gram(text.unflatten(0, shape)), self.alpha, real)
            columns.append(self._pool(values, regions))
        return torch.cat(columns, 1)

    def _pool(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Pool values (I, n, P) over the real parts of `mask`, which broadcasts to them."""
        if self.pooling == "Softmax":
            x = values / self.beta
            p = torch.softmax(x, -1) if mask is None else masked_softmax(x, mask)
            return (p * values).sum(-1)
        pooled = aggregate(values, self.pooling, 1 / self.beta, mask)
        unscaled = self.pooling == "LogSumExp" and not self.scale_lse
        return pooled / self.beta if unscaled else pooled

    def weights(self, images: Encoded, captions: Encoded) -> Tensor:
        """Mark the best region of each word ("VHA") or the best word of each region ("THA").

        "VSA" gives the softmax over words instead. Of equal values the first one is the best.

        Returns:
            (I, C, R, L), 0 at padding.
        """
        assert images.parts is not None and images.mask is not None
        assert captions.parts is not None and captions.mask is not None
        products = torch.einsum("ird,cld->icrl", full(images.parts), full(captions.parts))
        real = images.mask[:, None, :, None] & captions.mask[:, None]  # (I, C, R, L)
        if self.coding == "VSA":
            return masked_softmax(products / self.alpha, real)
        best = products.masked_fill(~real, float("-inf"))
        axis = 2 if self.coding == "VHA" else 3
        chosen = torch.zeros_like(best).scatter(axis, best.argmax(axis, keepdim=True), 1.0)
        return chosen.masked_fill(~real, 0.0)


def largest(products: Tensor, axis: int, mask: Tensor | None = None) -> Tensor:
    """Compute the largest real value along an axis; the gradient goes to its first place alone.

    Args:
        products: any shape.
        axis: the axis that is reduced.
        mask: broadcasts to `products`, None = all real. Without a real value all values count.
    """
    if mask is not None:
        none = ~mask.any(-2 if axis == 1 else -1, keepdim=True)
        products = products.masked_fill(~(mask | none), float("-inf"))
    if products.requires_grad and torch.is_grad_enabled():
        return products.max(axis).values  # amax would spread the gradient over equal values
    return products.amax(axis)  # several times faster


def soft(products: Tensor, gram: Tensor, alpha: float, mask: Tensor | None = None) -> Tensor:
    """Compute u_r = <a_r, v_r> / |a_r| of regions with their attended words, without forming a_r.

    <a_r, v_r> = sum_l p_l S[r, l] and |a_r|^2 = p^T G p with the Gram matrix G of the words.

    Args:
        products: S (I, n, R, L).
        gram: (n, L, L).
        alpha: temperature of the softmax over words.
        mask: (n, 1, L) real words, None = all.

    Returns:
        (I, n, R).
    """
    if mask is None:
        p = torch.softmax(products / alpha, -1)
    else:
        p = masked_softmax(products / alpha, mask)
    square = ((p @ gram) * p).sum(-1).clamp_min(0)
    # A zero vector gives 0 and a zero gradient (the root would give NaN).
    length = torch.where(square > 0, square, 1.0).sqrt()
    return torch.where(square > 0, (p * products).sum(-1) / (length + EPS), 0.0)
