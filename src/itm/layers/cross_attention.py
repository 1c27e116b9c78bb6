"""Cross attention between the regions of images and the words of captions, for all pairs at once.

Every query (a word in "t2i", a region in "i2t") attends to the parts of the other side, its
context, and is compared with the attended vector c (SCAN, Lee et al. 2018, section 3.1; CASC uses
both directions). From the products S = context . query of a pair, the attention p and the Gram
matrix G = context . context^T, the cosine follows without forming c:

    <q, c> = sum_k p_k S_k        |c|^2 = p^T G p

One matrix product gives S for all pairs. On a CPU, captions are grouped by equal length, so no
padding or mask is needed, and processed in blocks that fit the cache. On a GPU, few large blocks
are faster, so all captions share a masked block.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from itm.batch import Encoded
from itm.layers.attention_math import (
    AGGREGATIONS,
    RAW_NORMS,
    Block,
    aggregate,
    attend,
    attend_unscaled,
    attended_cosine,
    cut,
    gram,
    split,
)
from itm.layers.functional import full, full_precision
from itm.layers.packing import Packed, pack
from itm.utils.checks import check_choice


class Blocking(NamedTuple):
    """Sizes of the blocks that the work is split into."""

    slack: float  # padding allowed in a group of captions, see `pack`
    product: int  # values of S computed at once
    block: int  # values of p computed at once


CACHE = Blocking(slack=0.0, product=1 << 22, block=1 << 18)  # 16 MB and 1 MB of float32
# As few kernels as possible; from 2^31 values on, a kernel would index with 64 bits.
LAUNCH = Blocking(slack=math.inf, product=1 << 30, block=1 << 30)


@dataclass(frozen=True)
class CrossAttention:
    """Compute attention of queries to their context, and the scores of image-caption pairs.

    a = raw_norm(S) along the queries; p = softmax over the context of temperature x a;
    r = cos(q, sum_k p_k context_k) for each query; score = aggregation of r over the queries.

    Args:
        direction: "t2i", words attend to regions, or "i2t", regions attend to words.
        raw_norm: one of `RAW_NORMS`; "clipped" applies LeakyReLU(0.1) first.
        temperature: factor before the softmax (lambda_softmax in the original code).
        aggregation: one of `AGGREGATIONS`; LogSumExp is log(sum exp(lambda_lse r)) / lambda_lse.
        lambda_lse: sharpness of LogSumExp.

    Raises:
        ValueError: an option is unknown, or lambda_lse is not above 0.

    Examples:
        >>> import torch
        >>> from itm.batch import Encoded
        >>> from itm.layers import CrossAttention
        >>> attention = CrossAttention("i2t", temperature=4.0)
        >>> images = Encoded(parts=torch.rand(2, 5, 8), mask=torch.ones(2, 5, dtype=torch.bool))
        >>> captions = Encoded(
        ...     parts=torch.rand(3, 4, 8), mask=torch.ones(3, 4, dtype=torch.bool),
        ...     aux={"lengths": torch.tensor([4, 4, 4])},
        ... )
        >>> attention.similarity(images, captions).shape
        torch.Size([2, 3])
    """

    direction: str = "t2i"
    raw_norm: str = "clipped_l2norm"
    temperature: float = 9.0
    aggregation: str = "Mean"
    lambda_lse: float = 6.0

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("t2i", "i2t"))
        check_choice("raw_norm", self.raw_norm, RAW_NORMS)
        check_choice("aggregation", self.aggregation, AGGREGATIONS)
        if self.lambda_lse <= 0:
            raise ValueError(f"lambda_lse must be above 0 (it is a divisor), got {self.lambda_lse}")

    def prepare(self, images: Encoded) -> Encoded:
        """Add to the images what all blocks of captions share: `aux["gram"]` in "t2i"."""
        if self.direction == "i2t":
            return images
        return images._replace(aux={**(images.aux or {}), "gram": image_gram(images)})

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C) from region vectors (I, R, D) and word vectors (C, L, D)."""

        def score(block: Block) -> Tensor:
            p, least = attend_unscaled(block, self.raw_norm, self.temperature)
            return self._score(p, block, least)

        return self.all_pairs(score, images, captions)

    def weights(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute attention (I, C, R, L); it sums to 1 over the context and is 0 at padding."""

        def pictures(block: Block) -> Tensor:
            p = self._attend(block)
            if block.query_mask is not None:
                p = p.masked_fill(~block.query_mask, 0.0)
            # (N, M, R, L): the regions are the context in t2i, the queries in i2t.
            return p.permute(0, 2, 1, 3) if self.direction == "t2i" else p.permute(0, 2, 3, 1)

        assert captions.parts is not None
        return self.all_pairs(pictures, images, captions, captions.parts.shape[1])

    def similarity_and_means(self, images: Encoded, captions: Encoded) -> tuple[Tensor, Tensor]:
        """Compute scores (I, C), and each pair's attention averaged over its queries (I, C, P).

        The context weighted by this average is the mean of the pair's attended vectors. P = R in
        "t2i", P = L in "i2t".
        """

        def both(block: Block) -> Tensor:
            p = self._attend(block)
            means = aggregate(p, "Mean", mask=block.query_mask).transpose(1, 2)  # (N, M, P)
            return torch.cat([self._score(p, block).unsqueeze(-1), means], -1)

        assert captions.parts is not None
        size = 1 + captions.parts.shape[1] if self.direction == "i2t" else None
        found = self.all_pairs(both, images, captions, size)
        return found[..., 0], found[..., 1:]

    @full_precision
    def matched_means(self, images: Encoded, captions: Encoded, rows: Tensor) -> Tensor:
        """Compute the mean attended vector (C, D) of each caption with its own image.

        Args:
            images: with region vectors (I, R, D).
            captions: with word vectors (C, L, D).
            rows: (C,) row of each caption's image.
        """
        assert images.parts is not None and images.mask is not None
        assert captions.parts is not None and captions.mask is not None
        regions = full(images.parts).index_select(0, rows), images.mask[rows]
        words = full(captions.parts), captions.mask
        sides = (regions, words) if self.direction == "t2i" else (words, regions)
        (context, context_mask), (queries, query_mask) = sides
        products = (context @ queries.mT).unsqueeze(2)  # (C, P, 1, Q)
        mask = query_mask[:, None, None]  # (C, 1, 1, Q)
        p = attend(products, self.raw_norm, self.temperature, context_mask, mask)
        means = aggregate(p, "Mean", mask=mask)  # (C, P, 1)
        return (means.mT @ context).squeeze(1)

    def _attend(self, block: Block) -> Tensor:
        masks = block.context_mask, block.query_mask
        return attend(block.products, self.raw_norm, self.temperature, *masks)

    def _score(self, p: Tensor, block: Block, least: float = 1.0) -> Tensor:
        """Compute scores (N, M) of a block's pairs from attention of any positive scale."""
        r = attended_cosine(p, block, least)
        return aggregate(r, self.aggregation, self.lambda_lse, block.query_mask)

    @torch.compiler.disable(recursive=False)
    def all_pairs(
        self,
        function: Callable[[Block], Tensor],
        images: Encoded,
        captions: Encoded,
        size: int | None = None,
    ) -> Tensor:
        """Apply a function of blocks to all pairs.

        Args:
            function: block -> (N, M, ...).
            images: with region vectors (I, R, D).
            captions: with word vectors (C, L, D).
            size: pad the function's last dimension with zeros to this size; needed if that
                dimension is the number of words, which differs between blocks.

        Returns:
            (I, C, ...).
        """
        regions = images.parts
        assert regions is not None
        t2i = self.direction == "t2i"
        blocking = CACHE if regions.device.type == "cpu" else LAUNCH
        packed = pack(captions, blocking.slack)
        known = image_gram(images) if t2i else torch.linalg.vector_norm(full(regions), dim=-1)
        step = max(1, blocking.product // (regions.shape[1] * len(packed.words)))
        rows = []
        for chunk, own, mask in split(step, regions, known, unless_all_real(images.mask)):
            flat = chunk.flatten(0, 1)  # (I * R, D)
            # Only this product runs in the trainer's precision, (I * R, W) or (W, I * R).
            products = flat @ packed.words.T if t2i else packed.words @ flat.T
            with torch.autocast(regions.device.type, enabled=False):
                columns = []
                for block in self._blocks(full(products), own, mask, packed):
                    found = torch.cat([function(piece) for piece in cut(block, blocking.block)])
                    found = found if t2i else found.transpose(0, 1)
                    missing = 0 if size is None else size - found.shape[-1]
                    columns.append(F.pad(found, (0, missing)) if missing else found)
                rows.append(torch.cat(columns, 1))
        return torch.cat(rows).index_select(1, packed.inverse)

    def _blocks(
        self, products: Tensor, own: Tensor, mask: Tensor | None, packed: Packed
    ) -> Iterator[Block]:
        """Yield one block per group of captions, from the products of I images with all words.

        Args:
            products: (I * R, W) in "t2i", (W, I * R) in "i2t".
            own: Gram matrices of the regions (I, R, R) in "t2i", their lengths (I, R) in "i2t".
            mask: (I, R) real regions, None = all.
            packed: the words.
        """
        I, R = own.shape[:2]  # noqa: E741
        t2i = self.direction == "t2i"
        # Use split, not slices: its backward is a single concatenation.
        parts = products.split(packed.sizes, 1 if t2i else 0)
        texts = full(packed.words).split(packed.sizes)
        groups = zip(parts, texts, packed.shapes, packed.masks, strict=True)
        for part, text, (n, L), words in groups:
            if t2i:
                length = torch.linalg.vector_norm(text, dim=-1).view(n, L)
                yield Block(part.reshape(I, R, n, L), own, length, mask, words)
            else:
                yield Block(part.view(n, L, I, R), gram(text.view(n, L, -1)), own, words, mask)


@full_precision
def image_gram(images: Encoded) -> Tensor:
    """Return the Gram matrices (I, R, R) of the regions, from `aux["gram"]` if `prepare` ran."""
    assert images.parts is not None
    aux = images.aux or {}
    return aux["gram"] if "gram" in aux else gram(images.parts)


def unless_all_real(mask: Tensor | None) -> Tensor | None:
    """Drop a mask without padding; a mask on a device is kept, as reading it would wait."""
    if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
        return None
    return mask
