"""SGRAF: local and global similarity vectors, combined by reasoning (SGR) or filtration (SAF).

Diao, Zhang, Ma, Lu: Similarity Reasoning and Filtration for Image-Text Matching, AAAI 2021. SGR and
SAF are trained separately; SGRAF is the mean of their two score matrices.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, l2norm, xavier_
from itm.layers.packing import Packed, pack
from itm.layers.text import text_encoder
from itm.matcher.explanation import Details, array, attention_details
from itm.matcher.inputs import check_batch, check_images
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.models.sgraf.attention import unit_attention, word_attention
from itm.models.sgraf.filtration import AttentionFiltration
from itm.models.sgraf.global_vector import GlobalVector
from itm.models.sgraf.graph import GraphReasoning
from itm.models.sgraf.nodes import similarity_nodes
from itm.utils.checks import check_choice
from itm.utils.devices import block_values

CACHE = 1 << 21  # values of the nodes that a CPU reduces at once


class SGRAF(Matcher):
    """Similarity graph reasoning (module="SGR") or similarity attention filtration ("SAF").

    image:   v_r = l2norm(W x_r + b); global vector from all regions.
    caption: w_l = l2norm of the GRU's states; global vector from all words.
    nodes:   l2norm(W_g (v - w)^2) of the global vectors, and l2norm(W_l (c_l - w_l)^2) for each
             word with its attended regions c_l = l2norm(sum_r attention v_r).
    score:   sigmoid(w . reduce(nodes)), in (0, 1), where reduce is SGR or SAF.

    In training a pair's score depends on the other images of the batch, because of batch norm.

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        module: "SGR" or "SAF".
        num_regions: number R of regions of every image; a batch norm has a channel per position.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        sim_dim: width K of a similarity vector.
        sgr_steps: number of reasoning steps of SGR.
        num_layers: number of layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        no_imgnorm: do not normalise the region vectors.
        no_txtnorm: do not normalise the word vectors.
        temperature: temperature of the attention over regions (a constant in the original).
        dropout: dropout on the word embeddings and in both global vectors.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: the module is unknown, or SGR has no steps.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = SGRAF(len(vocab), img_dim=6, module="SAF", num_regions=5, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> scores = matcher.score(np.ones((3, 5, 6), np.float32), ["a red dog", "cat"])
        >>> bool(((0 < scores) & (scores < 1)).all())
        True
    """

    needs_regions = True
    # Not `similarity`: it loops over the length groups of a batch, which differ between batches.
    compiled: ClassVar[tuple[str, ...]] = ("encode_images",)

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        module: str = "SGR",
        num_regions: int = 36,
        word_dim: int = 300,
        embed_dim: int = 1024,
        sim_dim: int = 256,
        sgr_steps: int = 3,
        num_layers: int = 1,
        bidirectional: bool = True,
        no_imgnorm: bool = False,
        no_txtnorm: bool = False,
        temperature: float = 9.0,
        dropout: float = 0.4,
        text: dict[str, Any] | None = None,
        *,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(ignore=OBJECTS)
        check_choice("module", module, ("SGR", "SAF"))
        if module == "SGR" and sgr_steps < 1:
            raise ValueError(f"SGR needs at least one step, got sgr_steps={sgr_steps}")
        self.num_regions = num_regions
        self.no_imgnorm, self.no_txtnorm = no_imgnorm, no_txtnorm
        self.temperature = temperature
        self.image = xavier_(nn.Linear(img_dim, embed_dim))
        self.image_global = GlobalVector(embed_dim, num_regions, dropout)
        self.text = text_encoder(
            text or {"name": "gru"},
            vocab_size,
            embed_dim,
            word_dim,
            num_layers,
            bidirectional,
            dropout,
        )
        self.text_global = GlobalVector(embed_dim, None, dropout)
        self.local_node = xavier_(nn.Linear(embed_dim, sim_dim))
        self.global_node = xavier_(nn.Linear(embed_dim, sim_dim))
        self.reduce: GraphReasoning | AttentionFiltration = (
            GraphReasoning(sim_dim, sgr_steps) if module == "SGR" else AttentionFiltration(sim_dim)
        )
        self.head = xavier_(nn.Linear(sim_dim, 1))

    def encode_images(self, images: Images) -> Encoded:
        """Compute global vectors (I, D) and region vectors (I, R, D).

        Raises:
            ValueError: the number of regions is not R, or a training batch has one image only.
        """
        check_images(images, self)
        check_batch(len(images.regions), self)
        parts = self.image(images.regions)  # (I, R, D)
        parts = full(parts) if self.no_imgnorm else l2norm(parts)
        return Encoded(self.image_global(parts, images.mask), parts, images.mask)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute global vectors (C, D) and word vectors (C, L, D)."""
        words, mask = self.text(captions)  # (C, L, D)
        words = full(words) if self.no_txtnorm else l2norm(words)
        lengths = torch.tensor(captions.lengths)  # stays on the host
        return Encoded(self.text_global(words, mask), words, mask, {"lengths": lengths})

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C) in (0, 1)."""
        assert captions.parts is not None
        # On a GPU a few large kernels are faster than one group for each length.
        packed = pack(captions, 0.0 if captions.parts.device.type == "cpu" else math.inf)
        vectors = self._vectors(images, captions, packed)
        scores = full(self.head(vectors).squeeze(-1)).sigmoid()
        return scores.index_select(1, packed.inverse)

    def _vectors(self, images: Encoded, captions: Encoded, packed: Packed) -> Tensor:
        """Reduce the nodes of each pair to one vector, (I, C, K); captions in groups' order."""
        assert images.parts is not None
        if isinstance(self.reduce, AttentionFiltration) and images.parts.device.type == "cpu":
            first, attention = self._sides(images, captions, packed)
            return self.reduce.in_blocks(first, attention, images.parts, packed, self.local_node)
        reduce = self.reduce.reducer()
        groups = self._nodes(images, captions, packed)
        return torch.cat([reduce(nodes, mask) for nodes, mask in groups], 1)

    def _sides(self, images: Encoded, captions: Encoded, packed: Packed) -> tuple[Tensor, Tensor]:
        """Compare the global vectors, (I, C, K), and weight regions for each word, (I, R, W)."""
        assert images.vector is not None and images.parts is not None
        assert captions.vector is not None
        products = images.parts @ packed.words.T
        attention = unit_attention(products, images.parts, packed, self.temperature)
        # Treat the global vector as the only part of its image, with weight 1.
        vectors = captions.vector.index_select(0, packed.inverse.argsort())
        whole = torch.ones_like(images.vector[:, :1, None]).expand(-1, 1, len(vectors))
        (overall,) = similarity_nodes(
            whole, images.vector[:, None], vectors, self.global_node, [(1, len(vectors))]
        )  # (I, 1, C, K)
        return overall[:, 0], attention

    def _nodes(
        self, images: Encoded, captions: Encoded, packed: Packed
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield similarity vectors (I, c, 1 + L, K) of a group, global first, and the nodes' mask.

        The mask (c, 1 + L) is None for captions of equal length. The longest captions come first,
        as in the original's batches, because SAF updates its statistics in this order.
        """
        assert images.parts is not None
        first, attention = self._sides(images, captions, packed)
        groups = blocks(packed, len(first) * first.shape[-1], first.device)
        shapes, masks = zip(*groups, strict=True)
        local = similarity_nodes(
            attention, images.parts, packed.words, self.local_node, shapes, first
        )
        for nodes, mask in zip(local, masks, strict=True):
            yield nodes, None if mask is None else pad(mask, (1, 0), value=True)

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute weights (I, C, R, L) of the regions for each word; sum 1 over R, 0 at padding."""
        assert images.parts is not None and captions.parts is not None
        packed = pack(captions)
        products = images.parts @ packed.words.T
        weights = word_attention(products, packed, self.temperature).split(packed.sizes, -1)
        groups = zip(weights, packed.shapes, strict=True)
        found = [x.unflatten(-1, shape).transpose(1, 2) for x, shape in groups]  # (I, c, R, L)
        return padded(found, captions.parts.shape[1], 1).index_select(1, packed.inverse)

    def node_weights(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute SAF's weights (I, C, 1 + L) of the global node and the words; 0 at padding.

        Raises:
            ValueError: the module is SGR.
        """
        if not isinstance(self.reduce, AttentionFiltration):
            raise ValueError("node_weights() needs module='SAF'; this is SGR, which has edges()")
        return self._look(images, captions, self.reduce.weights, 1)

    def edges(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute SGR's edges (I, C, steps, 1 + L, 1 + L); rows sum to 1, node 0 is global.

        Raises:
            ValueError: the module is SAF.
        """
        if not isinstance(self.reduce, GraphReasoning):
            raise ValueError("edges() needs module='SGR'; this is SAF, which has node_weights()")
        return self._look(images, captions, self.reduce.edges, 2)

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show the words' attention, and SAF's weights of words or SGR's edges in its last step."""
        found = attention_details(self, images, captions)
        if isinstance(self.reduce, AttentionFiltration):
            weights = array(self.node_weights(images, captions)[0, 0])
            return found._replace(words={"what counts (SAF)": weights[1:]})
        edges = array(self.edges(images, captions)[0, 0])  # (steps, 1 + L, 1 + L)
        return found._replace(edges={"what each node reads (SGR, last step)": edges[-1]})

    def _look(
        self, images: Encoded, captions: Encoded, look: Callable[[Tensor], Tensor], axes: int
    ) -> Tensor:
        """Apply `look` to each group's nodes; the last `axes` axes of its result are nodes."""
        assert captions.parts is not None
        packed = pack(captions)
        found = [look(nodes) for nodes, _ in self._nodes(images, captions, packed)]
        return padded(found, 1 + captions.parts.shape[1], axes).index_select(1, packed.inverse)

    def pair_floats(self, regions: int, words: int) -> int:
        """Count attention, similarity vectors and, for SGR, edges of one pair."""
        nodes, copies = words + 1, 6 if isinstance(self.reduce, GraphReasoning) else 4
        return 3 * regions * words + copies * nodes * self.hparams["sim_dim"] + 2 * nodes**2


def blocks(
    packed: Packed, width: int, device: torch.device
) -> list[tuple[tuple[int, int], Tensor | None]]:
    """Cut groups of captions into blocks that fit the cache of a CPU, or the memory of a GPU.

    Args:
        packed: the words of the groups.
        width: number of values of a node for all images.
        device: where the blocks are computed.

    Returns:
        For each block the number of captions and words, and the mask of the words.
    """
    found: list[tuple[tuple[int, int], Tensor | None]] = []
    for (count, size), mask in zip(packed.shapes, packed.masks, strict=True):
        step = max(1, block_values(device, CACHE) // (width * (size + 1)))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            found.append(((rows.stop - start, size), None if mask is None else mask[rows]))
    return found


def padded(groups: list[Tensor], size: int, axes: int) -> Tensor:
    """Join along dim 1 after padding the last `axes` axes with zeros to `size`."""
    return torch.cat([pad(x, (0, size - x.shape[-1]) * axes) for x in groups], 1)
