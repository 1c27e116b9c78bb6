"""CVSE: instance vectors, and a consensus level over concepts of everyday knowledge.

Wang, Zhang, Ji, Pang, Ma: Consensus-Aware Visual-Semantic Embedding for Image-Text Matching,
ECCV 2020. The words of a caption that are concepts act as its labels, in training and at test time.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, full_precision, l2norm, masked_mean, xavier_
from itm.layers.text import BertText, text_encoder
from itm.matcher.inputs import check_images
from itm.matcher.matcher import OBJECTS, Matcher
from itm.models.cvse.consensus import (
    EPS,
    ConceptGraph,
    Consensus,
    SelfAttention,
    graph_from_counts,
    mix_labels,
    mixture,
)
from itm.published.cvse import published, to_published
from itm.text.concepts import Concepts
from itm.text.word_vectors import word_vectors

__all__ = ["CVSE", "published"]


class CVSE(Matcher):
    """Consensus-aware visual-semantic embedding.

    instance:  v0, t0 = self-attention over unit regions and unit words.
    consensus: p = softmax over K concepts X = graph(Z); captions mix in their own concept words,
               p_t = ratio softmax(10 labels) + (1 - ratio) p; v1, t1 = l2(sum_c p_c X_c).
    fused:     v2 = l2(alpha v0 + (1 - alpha) v1), t2 likewise.
    score:     (1 - w) <v2, t2> + w <v1, t1> with w = `consensus_weight`, as one dot product: the
               global vector (width 2 D) is [sqrt(1 - w) v2, sqrt(w) v1].
    loss:      3 rank(fused) + 5 rank(instance) + 1 rank(consensus) + 2 KL(p_t || p_v).

    Args:
        vocab_size: words V.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: layers of the GRU.
        bidirectional: read captions in both directions.
        num_regions: R; with batch norm, which acts on the position of a region, every image must
            have this many.
        num_concepts: K.
        concept_dim: width G of the concepts' word vectors.
        concept_vectors: file of word vectors (GloVe's text format) that `set_concepts` reads;
            without one Z is seeded noise.
        concept_ratio: share of a caption's own concept words in its distribution.
        alpha: weight of the instance vector in training.
        eval_alpha: the same at test time.
        consensus_weight: weight w of the consensus level in the test score.
        level_weights: of the ranking losses of the fused, instance and consensus level.
        kl_weight: weight of the KL divergence, summed over the batch.
        no_imgnorm: leave the region vectors unnormalised.
        use_batchnorm: batch norms on the image side and in the consensus level.
        activation: "tanh" or "sigmoid".
        fusion: "weight_sum" (above) or "multiple", v2 = l2(v0 * v1).
        dropout: of word embeddings and attention.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an unknown activation or fusion.
    """

    needs_concepts = True

    def __init__(
        self,
        vocab_size: int,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        num_regions: int = 36,
        num_concepts: int = 300,
        concept_dim: int = 300,
        concept_vectors: str | None = None,
        concept_ratio: float = 0.35,
        alpha: float = 0.85,
        eval_alpha: float = 0.85,
        consensus_weight: float = 0.05,
        level_weights: list[float] | None = None,
        kl_weight: float = 2.0,
        no_imgnorm: bool = False,
        use_batchnorm: bool = True,
        activation: str = "tanh",
        fusion: str = "weight_sum",
        dropout: float = 0.4,
        text: dict[str, Any] | None = None,
        *,
        loss=None,
        optimizer=None,
        scheduler=None,
    ):
        super().__init__(loss, optimizer, scheduler)
        self.save_hyperparameters(ignore=OBJECTS)
        if activation not in ("tanh", "sigmoid") or fusion not in ("weight_sum", "multiple"):
            raise ValueError(
                f"activation={activation!r} must be 'tanh' or 'sigmoid' and fusion={fusion!r} "
                "'weight_sum' or 'multiple'"
            )
        # Without batch norm nothing knows a region by its position.
        self.num_regions = num_regions if use_batchnorm else None
        self.no_imgnorm = no_imgnorm
        self.use_batchnorm = use_batchnorm
        self.concept_vectors = concept_vectors
        self.concept_ratio = concept_ratio
        self.alpha = alpha
        self.eval_alpha = eval_alpha
        self.consensus_weight = consensus_weight
        self.level_weights = level_weights or [3.0, 5.0, 1.0]
        self.kl_weight = kl_weight
        self.fusion = fusion
        self.image = xavier_(nn.Linear(img_dim, embed_dim))
        self.image_attention = SelfAttention(
            embed_dim,
            activation,
            dropout,
            num_regions if use_batchnorm else None,
            bounded=activation == "tanh" and not use_batchnorm,
        )
        self.text = text_encoder(
            text or {"name": "gru"},
            vocab_size,
            embed_dim,
            word_dim,
            num_layers,
            bidirectional,
            dropout,
        )
        self.text_attention = SelfAttention(embed_dim, activation, dropout)
        self.graph = ConceptGraph(num_concepts, concept_dim, embed_dim)
        self.image_consensus = Consensus(embed_dim, activation, dropout, use_batchnorm)
        self.text_consensus = Consensus(embed_dim, activation, dropout, use_batchnorm)
        self._concepts: Tensor | None = None  # X while a batch's losses are computed

    def set_concepts(self, concepts: Concepts) -> None:
        """Take over words, graph and word vectors of a concept vocabulary.

        Raises:
            ValueError: another number of concepts, or vectors of another width.
        """
        size, width = self.graph.vectors.shape
        if len(concepts) != size:
            raise ValueError(f"{len(concepts)} concepts for a matcher with num_concepts={size}")
        vectors = concepts.vectors
        if self.concept_vectors is not None:
            vectors = word_vectors(concepts.words, self.concept_vectors)
        if vectors is not None:
            if vectors.shape[1] != width:
                raise ValueError(
                    f"the concepts' word vectors are {vectors.shape[1]} wide, the matcher takes "
                    f"{width}: set concept_dim={vectors.shape[1]}"
                )
            self.graph.vectors.copy_(torch.from_numpy(vectors))
        if concepts.counts is not None and concepts.adjacency is not None:
            counts, together = map(torch.from_numpy, (concepts.counts, concepts.adjacency))
            self.graph.adjacency.copy_(graph_from_counts(counts, together))
        self.concepts = concepts

    def encode_images(self, images: Images) -> Encoded:
        """Global vectors (I, 2 D); where losses may follow also the levels and log p_v (I, K)."""
        instance, _ = self._image(images)
        concepts = self._concept_basis()
        return self._encoded(instance, self.image_consensus(instance, concepts), concepts)

    def region_scores(self, images: Images) -> Tensor:
        """Attention weights of the instance level, (I, R); 0 at padding."""
        return self._image(images)[1]

    def _image(self, images: Images) -> tuple[Tensor, Tensor]:
        """Instance vectors v0 (I, D) and their attention (I, R)."""
        check_images(images, self)
        self._check_batch(len(images.regions))
        regions = self.image(images.regions)
        parts = full(regions) if self.no_imgnorm else l2norm(regions, eps=EPS)  # (I, R, D)
        return self.image_attention(parts, masked_mean(parts, images.mask), images.mask)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Global vectors (C, 2 D); where losses may follow also the levels and log p_t (C, K).

        `captions.concepts` None counts as no concept word in any caption.
        """
        labels, size = captions.concepts, len(self.graph.vectors)
        if labels is not None and labels.shape[1] != size:
            raise ValueError(f"captions come with {labels.shape[1]} concept labels, not {size}")
        instance, _ = self._text(captions)
        concepts = self._concept_basis()
        own = self.text_consensus(instance, concepts)  # (C, K)
        return self._encoded(instance, mix_labels(own, labels, self.concept_ratio), concepts)

    def word_scores(self, captions: Captions) -> Tensor:
        """Attention weights of the instance level, (C, L); 0 at padding."""
        return self._text(captions)[1]

    def _text(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Instance vectors t0 (C, D) and their attention (C, L)."""
        self._check_batch(len(captions.lengths))
        words, mask = self.text(captions)
        parts = l2norm(words, eps=EPS)  # (C, L, D)
        return self.text_attention(parts, l2norm(masked_mean(parts, mask), eps=EPS), mask)

    def _encoded(self, instance: Tensor, log_concepts: Tensor, concepts: Tensor) -> Encoded:
        """Test vector, and the levels where they may be trained on: a split is encoded without."""
        consensus = mixture(log_concepts, concepts)  # (N, D)
        weight = self.consensus_weight
        fused = self.fuse(instance, consensus, self.eval_alpha)
        vector = torch.cat([math.sqrt(1 - weight) * fused, math.sqrt(weight) * consensus], -1)
        if not (self.training or torch.is_grad_enabled() or self._concepts is not None):
            return Encoded(vector)
        levels = {"instance": instance, "consensus": consensus, "log_concepts": log_concepts}
        return Encoded(vector, aux=levels)

    @full_precision
    def fuse(self, instance: Tensor, consensus: Tensor, alpha: float) -> Tensor:
        """Fused unit vectors (N, D) of two levels."""
        if self.fusion == "multiple":
            return l2norm(instance * consensus, eps=EPS)
        return l2norm(alpha * instance + (1 - alpha) * consensus, eps=EPS)

    def _concept_basis(self) -> Tensor:
        """X (K, D)."""
        return self.graph() if self._concepts is None else self._concepts

    def _check_batch(self, size: int) -> None:
        if self.training and self.use_batchnorm and size < 2:
            raise ValueError(
                "CVSE cannot train on a batch of one: its batch norms need at least two; use "
                "data.drop_last=true or another data.batch_size"
            )

    @property
    def label_dim(self) -> int:
        """Width of the global vectors, two levels beside each other: 2 D."""
        return 2 * self.hparams["embed_dim"]

    def losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """See `Matcher.losses`; both sides share one pass through the concept graph."""
        self._concepts = self.graph()
        try:
            return super().losses(pairs)
        finally:
            self._concepts = None

    @full_precision
    def training_scores(
        self, images: Encoded, captions: Encoded
    ) -> dict[str, tuple[float, Tensor]]:
        """Scores (I, C) of the fused (main), the instance and the consensus level."""
        assert images.aux is not None and captions.aux is not None
        v, t = images.aux, captions.aux
        v2, t2 = (self.fuse(x["instance"], x["consensus"], self.alpha) for x in (v, t))
        fused, instance, consensus = self.level_weights
        return {
            "fused": (fused, v2 @ t2.T),
            "instance": (instance, v["instance"] @ t["instance"].T),
            "consensus": (consensus, v["consensus"] @ t["consensus"].T),
        }

    @full_precision
    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """KL(p_t || p_v) between each caption and its image; gradients reach both (section 3.4)."""
        assert images.aux is not None and captions.aux is not None
        text = captions.aux["log_concepts"]  # (C, K)
        image = images.aux["log_concepts"][pairs.captions.image]  # (C, K)
        return {"kl": self.kl_weight * (text.exp() * (text - image)).sum()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The concept graph's learning rate falls by 0.2 where that of the rest falls by 0.1."""
        main, *others = super().parameter_groups()
        graph = list(self.graph.parameters())
        known = {id(p) for p in graph}
        main["params"] = [p for p in main["params"] if id(p) not in known]
        return [main, *others, {"name": "graph", "params": graph, "gamma": 0.2}]

    def to_published(self) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
        """The eight state dicts and the options of the original's checkpoint.

        Concept words and their vectors are not part of it.

        Raises:
            ValueError: a form that the original code does not have.
        """
        if isinstance(self.text, BertText) or self.consensus_weight != 0.05:
            raise ValueError(
                "the original CVSE has a GRU for text and consensus_weight=0.05; this one has "
                f"{type(self.text).__name__}, {self.consensus_weight}"
            )
        tensors = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        return to_published(tensors, dict(self.hparams))
