"""Cross attention between the regions of images and the words of captions, for all pairs at once.

Every query (a word in "t2i", a region in "i2t") attends to the parts of the other side, its
context, and is compared with what it attended to (SCAN, Lee et al. 2018, section 3.1; CASC uses
both directions). With the products S = context . query of a pair, the attention p and the Gram
matrix G = context . context^T, the attended vector c is never formed:

    <q, c> = sum_k p_k S_k        |c|^2 = p^T G p

One matrix product gives S of all pairs. On a processor captions are taken in groups of equal
length, so that no word is padding and nothing needs a mask, and in blocks that fit its cache; a GPU
prefers few large blocks and takes captions of similar length together, masked.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from itm.batch import Encoded
from itm.layers import full, masked_softmax
from itm.packing import Packed, pack

RAW_NORMS = (
    "clipped_l2norm",
    "l2norm",
    "clipped_l1norm",
    "l1norm",
    "clipped",
    "softmax",
    "no_norm",
)
AGGREGATIONS = ("LogSumExp", "Mean", "Max", "Sum")
EPS = 1e-8


class Blocking(NamedTuple):
    """How the work is cut."""

    slack: float  # padding of a group of captions, see `pack`
    product: int  # values of S at once
    block: int  # values of p at once


CACHE = Blocking(slack=0.0, product=1 << 22, block=1 << 18)  # 16 MB and 1 MB of float32
LAUNCH = Blocking(slack=0.5, product=1 << 62, block=1 << 62)  # as few kernels as possible


class Block(NamedTuple):
    """The pairs of N contexts of P parts with M groups of Q queries.

    In "t2i" a context is an image (P = R) and the queries are the words of M captions (Q = L); in
    "i2t" a context is a caption (P = L) and the queries are the regions of M images (Q = R).
    """

    products: Tensor  # (N, P, M, Q) S
    gram: Tensor  # (N, P, P) of the contexts
    square: Tensor  # (M, Q) squared length of the queries
    context_mask: Tensor | None  # (N, P), None = all real
    query_mask: Tensor | None  # (M, Q), None = all real


@dataclass(frozen=True)
class CrossAttention:
    """Attention of queries to their context, and the score of an image-caption pair.

    a = raw_norm(S) along the queries; p = softmax over the context of temperature x a;
    r = cos(q, sum_k p_k context_k) for each query; score = aggregation of r over the queries.

    Args:
        direction: "t2i", words attend to regions, or "i2t", regions attend to words.
        raw_norm: one of `RAW_NORMS`; "clipped" stands for a LeakyReLU(0.1) first.
        temperature: factor before the softmax (the original's lambda_softmax).
        aggregation: one of `AGGREGATIONS`; LogSumExp is log(sum exp(lambda_lse r)) / lambda_lse.
        lambda_lse: sharpness of LogSumExp.

    Raises:
        ValueError: an unknown option.
    """

    direction: str = "t2i"
    raw_norm: str = "clipped_l2norm"
    temperature: float = 9.0
    aggregation: str = "Mean"
    lambda_lse: float = 6.0

    def __post_init__(self) -> None:
        for name, known in (
            ("direction", ("t2i", "i2t")),
            ("raw_norm", RAW_NORMS),
            ("aggregation", AGGREGATIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Scores (I, C) from region vectors (I, R, D) and word vectors (C, L, D)."""
        return self.all_pairs(self.score, images, captions)

    def weights(self, images: Encoded, captions: Encoded) -> Tensor:
        """Attention (I, C, R, L): sums to 1 over the context, zero at padding."""

        def pictures(block: Block) -> Tensor:
            p = self.attend(block)
            if block.query_mask is not None:
                p = p.masked_fill(~block.query_mask, 0.0)
            # The regions are the context in t2i, the queries in i2t.
            return p.permute(0, 2, 1, 3) if self.direction == "t2i" else p.permute(0, 2, 3, 1)

        return self.all_pairs(pictures, images, captions, words_last=True)

    def all_pairs(
        self,
        function: Callable[[Block], Tensor],
        images: Encoded,
        captions: Encoded,
        words_last: bool = False,
    ) -> Tensor:
        """Apply a function of blocks to all pairs.

        Args:
            function: block -> (N, M, ...).
            images: with region vectors (I, R, D).
            captions: with word vectors (C, L, D).
            words_last: the function's last dimension counts words; it is padded with zeros to L.

        Returns:
            (I, C, ...).
        """
        regions, words = images.parts, captions.parts
        assert regions is not None and words is not None
        blocking = CACHE if regions.device.type == "cpu" else LAUNCH
        packed = pack(captions, blocking.slack)
        mask = unless_all_real(images.mask)
        step = max(1, blocking.product // (regions.shape[1] * len(packed.words)))
        rows = []
        for start in range(0, len(regions), step):
            part = regions[start : start + step]
            flat = part.flatten(0, 1)  # (I * R, D)
            # The one product in the trainer's own precision; all that follows is float32.
            if self.direction == "t2i":
                products = flat @ packed.words.T  # (I * R, W)
            else:
                products = packed.words @ flat.T  # (W, I * R)
            with torch.autocast(regions.device.type, enabled=False):
                part_mask = None if mask is None else mask[start : start + step]
                columns = []
                for block in self._blocks(full(products), part, part_mask, packed):
                    found = torch.cat([function(piece) for piece in cut(block, blocking.block)])
                    found = found if self.direction == "t2i" else found.transpose(0, 1)
                    if words_last:
                        found = F.pad(found, (0, words.shape[1] - found.shape[-1]))
                    columns.append(found)
                rows.append(torch.cat(columns, 1))
        return torch.cat(rows).index_select(1, packed.inverse)

    def _blocks(
        self, products: Tensor, regions: Tensor, mask: Tensor | None, packed: Packed
    ) -> Iterator[Block]:
        """One block per group of captions, from the products of I images with all words."""
        regions = full(regions)
        I, R, _ = regions.shape  # noqa: E741
        t2i = self.direction == "t2i"
        own = regions @ regions.mT if t2i else regions.square().sum(-1)
        # split, not slices: its backward is one concatenation.
        parts = products.split(packed.sizes, 1 if t2i else 0)
        texts = full(packed.words).split(packed.sizes)
        for part, text, (n, L), words in zip(
            parts, texts, packed.shapes, packed.masks, strict=True
        ):
            if t2i:
                square = text.square().sum(-1).view(n, L)
                yield Block(part.reshape(I, R, n, L), own, square, mask, words)
            else:
                vectors = text.view(n, L, -1)
                yield Block(part.view(n, L, I, R), vectors @ vectors.mT, own, words, mask)

    # For one block ----------------------------------------------------------------------------

    def score(self, block: Block) -> Tensor:
        """Scores (N, M) of a block's pairs."""
        return self._aggregate(attended_cosine(self.attend(block), block), block.query_mask)

    def attend(self, block: Block) -> Tensor:
        """Attention p (N, P, M, Q) of every query to its context."""
        products = block.products
        if block.query_mask is not None:
            products = products.masked_fill(~block.query_mask, 0.0)
        x = self._sharpen(products, block.query_mask)
        if block.context_mask is None:
            return torch.softmax(x, 1)
        return masked_softmax(x, block.context_mask[:, :, None, None].expand_as(x), 1)

    def _sharpen(self, products: Tensor, mask: Tensor | None) -> Tensor:
        """Products under raw_norm along the queries (the last dimension), times the temperature."""
        x = F.leaky_relu(products, 0.1) if self.raw_norm.startswith("clipped") else products
        if self.raw_norm in ("clipped", "no_norm"):
            return self.temperature * x
        if self.raw_norm == "softmax":
            x = x if mask is None else x.masked_fill(~mask, float("-inf"))
            return self.temperature * torch.softmax(x, -1)
        order = 1 if self.raw_norm.endswith("l1norm") else 2
        size = torch.linalg.vector_norm(x, order, dim=-1, keepdim=True)
        # A row of zeros stays zero, with a zero gradient.
        return x * torch.where(size > 0, self.temperature / (size + EPS), 0.0)

    def _aggregate(self, r: Tensor, mask: Tensor | None) -> Tensor:
        """One score from the relevances of all queries, (N, M, Q) -> (N, M)."""
        if self.aggregation in ("Mean", "Sum"):
            if mask is None:
                return r.mean(-1) if self.aggregation == "Mean" else r.sum(-1)
            total = r.masked_fill(~mask, 0.0).sum(-1)
            return total / mask.sum(-1) if self.aggregation == "Mean" else total
        r = r if mask is None else r.masked_fill(~mask, float("-inf"))
        if self.aggregation == "Max":
            return r.amax(-1)
        return torch.logsumexp(self.lambda_lse * r, -1) / self.lambda_lse


def attended_cosine(p: Tensor, block: Block) -> Tensor:
    """The relevance r = cos(q, sum_k p_k context_k), (N, M, Q); zero where either is zero."""
    dot = (p * block.products).sum(1)
    spread = torch.bmm(block.gram, p.flatten(2)).view_as(p)  # G p
    square = (p * spread).sum(1)  # |c|^2
    lengths = block.square * square  # |q|^2 |c|^2
    return dot * lengths.masked_fill(lengths <= EPS**2, float("inf")).rsqrt()


def cut(block: Block, values: int) -> Iterator[Block]:
    """Pieces of a block along its contexts, of about so many values of S each."""
    step = max(1, values // max(1, block.products[0].numel()))
    count = len(block.products)
    if step >= count:
        yield block
        return
    masks = None if block.context_mask is None else block.context_mask.split(step)
    pieces = zip(block.products.split(step), block.gram.split(step), strict=True)
    for k, (products, gram) in enumerate(pieces):
        mask = None if masks is None else masks[k]
        yield Block(products, gram, block.square, mask, block.query_mask)


def unless_all_real(mask: Tensor | None) -> Tensor | None:
    """A mask that matters; what a device holds is not asked for, that would wait for it."""
    if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
        return None
    return mask
