"""CVSE: instance vectors, and a consensus level over commonsense concepts.

Wang, Zhang, Ji, Pang, Ma: Consensus-Aware Visual-Semantic Embedding for Image-Text Matching,
ECCV 2020. The concept words in a caption are its labels, in training and at test time.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, full_precision, l2norm, masked_mean, xavier_
from itm.layers.text import text_encoder
from itm.layers.weights import linear_maps
from itm.matcher.explanation import Details, array, strongest
from itm.matcher.gather import mean_of_all
from itm.matcher.inputs import check_batch, check_images
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.models.cvse.consensus import (
    EPS,
    ConceptGraph,
    Consensus,
    LayerOptions,
    Levels,
    SelfAttention,
    mix_labels,
    mixture,
)
from itm.text.concepts import Concepts
from itm.utils.distributed import rank_and_size
from itm.utils.options import flat, flat_keywords


class CVSE(Matcher):
    """Consensus-aware visual-semantic embedding.

    instance:  v0, t0 = self-attention over unit regions and unit words.
    consensus: p = softmax over K concepts X = graph(Z); captions mix in their own concept words,
               p_t = ratio softmax(10 labels) + (1 - ratio) p; v1, t1 = l2(sum_c p_c X_c).
    fused:     v2 = l2(alpha v0 + (1 - alpha) v1), t2 likewise.
    score:     (1 - w) <v2, t2> + w <v1, t1> with w = `consensus_weight`, as one dot product: the
               global vector (width 2 D) is [sqrt(1 - w) v2, sqrt(w) v1].
    loss:      3 rank(fused) + 5 rank(instance) + 1 rank(consensus) + 2 KL(p_t || p_v), all summed
               over the batch, or all averaged if the ranking loss is an average.

    The options of `levels` and `layers` are also accepted as keywords: CVSE(..., alpha=0.9).

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        num_regions: number R of regions that every image must have if `use_batchnorm` is on,
            because a batch norm acts on the position of a region.
        num_concepts: number K of concepts.
        concept_dim: width G of the concepts' word vectors.
        concept_vectors: word vectors Z (K, G), used by `set_concepts` in place of the vocabulary's;
            without either, Z is seeded noise. They are saved with the weights, not with the
            arguments. To read them from a file, use `itm.text.word_vectors.word_vectors`.
        levels: how the two levels are mixed, scored and trained.
        layers: norms, activation and dropout.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown, or `concept_vectors` is a path.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = CVSE(len(vocab), img_dim=6, embed_dim=8, num_regions=5, num_concepts=4)
        >>> matcher.vocab = vocab
        >>> matcher.embed(captions=["a red dog", "cat"]).shape  # both levels side by side
        (2, 16)
    """

    needs_regions = True
    needs_concepts = True
    compiled: ClassVar[tuple[str, ...]] = ("image_levels", "similarity", "training_scores")

    @flat_keywords
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        *,
        num_regions: int = 36,
        num_concepts: int = 300,
        concept_dim: int = 300,
        concept_vectors: np.ndarray | None = None,
        levels: Levels = Levels(),  # noqa: B008
        layers: LayerOptions = LayerOptions(),  # noqa: B008
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(flat(locals()), ignore=[*OBJECTS, "concept_vectors"])
        if isinstance(concept_vectors, (str, Path)):
            raise ValueError(
                f"concept_vectors must be an array ({num_concepts}, {concept_dim}), got "
                f"{str(concept_vectors)!r}: read a file with "
                "itm.text.word_vectors.word_vectors(words, FILE)"
            )
        dropout, batchnorm = layers.dropout, layers.use_batchnorm
        # Without batch norm, nothing depends on the position of a region.
        self.num_regions = num_regions if batchnorm else None
        self.levels, self.layers = levels, layers
        self.concept_vectors = concept_vectors
        self.image = xavier_(nn.Linear(img_dim, embed_dim))
        self.image_attention = SelfAttention(
            embed_dim,
            layers.activation,
            dropout,
            self.num_regions,
            bounded=layers.activation == "tanh" and not batchnorm,
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
        self.text_attention = SelfAttention(embed_dim, layers.activation, dropout)
        self.graph = ConceptGraph(num_concepts, concept_dim, embed_dim)
        self.image_consensus = Consensus(embed_dim, layers.activation, dropout, batchnorm)
        self.text_consensus = Consensus(embed_dim, layers.activation, dropout, batchnorm)

    def set_concepts(self, concepts: Concepts) -> None:
        """Take the words, graph and word vectors of a concept vocabulary.

        Raises:
            ValueError: the number of concepts is not K, or the vectors are not G wide.
        """
        self.graph.fill(concepts, self.concept_vectors)
        self.concepts = concepts

    def encode_images(self, images: Images) -> Encoded:
        """Compute global vectors (I, 2 D)."""
        return Encoded(self.image_levels(images, self.graph()).vector)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute global vectors (C, 2 D).

        `captions.concepts` = None means that no caption has a concept word.
        """
        return Encoded(self.caption_levels(captions, self.graph()).vector)

    def training_encoders(
        self,
    ) -> tuple[Callable[[Images], Encoded], Callable[[Captions], Encoded]]:
        """Return encoders that keep the levels and share one pass through the concept graph."""
        concepts = self.graph()
        return (
            partial(self.image_levels, concepts=concepts),
            partial(self.caption_levels, concepts=concepts),
        )

    def image_levels(self, images: Images, concepts: Tensor) -> Encoded:
        """Compute global vectors (I, 2 D); `aux` has both levels (I, D) and log p_v (I, K).

        Args:
            images: I images.
            concepts: X (K, D), from the concept graph.
        """
        instance, _ = self._image(images)
        return self._encoded(instance, self.image_consensus(instance, concepts), concepts)

    def caption_levels(self, captions: Captions, concepts: Tensor) -> Encoded:
        """Compute global vectors (C, 2 D); `aux` has both levels (C, D) and log p_t (C, K).

        Args:
            captions: C captions.
            concepts: X (K, D), from the concept graph.

        Raises:
            ValueError: the captions do not have K concept labels.
        """
        labels, size = captions.concepts, len(concepts)
        if labels is not None and labels.shape[1] != size:
            raise ValueError(f"captions must have {size} concept labels, got {labels.shape[1]}")
        instance, _ = self._text(captions)
        own = self.text_consensus(instance, concepts)  # (C, K)
        log_concepts = mix_labels(own, labels, self.levels.concept_ratio)
        return self._encoded(instance, log_concepts, concepts)

    def _encoded(self, instance: Tensor, log_concepts: Tensor, concepts: Tensor) -> Encoded:
        consensus = mixture(log_concepts, concepts)  # (N, D)
        weight = self.levels.consensus_weight
        fused = self.fuse(instance, consensus, self.levels.eval_alpha)
        vector = torch.cat([math.sqrt(1 - weight) * fused, math.sqrt(weight) * consensus], -1)
        levels = {"instance": instance, "consensus": consensus, "log_concepts": log_concepts}
        if self.levels.alpha == self.levels.eval_alpha:
            levels["fused"] = fused
        return Encoded(vector, aux=levels)

    def region_scores(self, images: Images) -> Tensor:
        """Compute the instance level's attention weights (I, R); 0 at padding."""
        return self._image(images)[1]

    def word_scores(self, captions: Captions) -> Tensor:
        """Compute the instance level's attention weights (C, L); 0 at padding."""
        return self._text(captions)[1]

    def _image(self, images: Images) -> tuple[Tensor, Tensor]:
        """Compute instance vectors v0 (I, D) and their attention (I, R)."""
        check_images(images, self)
        check_batch(len(images.regions), self)
        regions = linear_maps(self.image)[0](images.regions)  # (I, R, D)
        parts = full(regions) if self.layers.no_imgnorm else l2norm(regions, eps=EPS)
        return self.image_attention(parts, masked_mean(parts, images.mask), images.mask)

    def _text(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Compute instance vectors t0 (C, D) and their attention (C, L)."""
        check_batch(len(captions.lengths), self)
        words, mask = self.text(captions)
        parts = l2norm(words, eps=EPS)  # (C, L, D)
        return self.text_attention(parts, l2norm(masked_mean(parts, mask), eps=EPS), mask)

    @full_precision
    def fuse(self, instance: Tensor, consensus: Tensor, alpha: float) -> Tensor:
        """Fuse two levels into unit vectors (N, D)."""
        if self.levels.fusion == "multiple":
            return l2norm(instance * consensus, eps=EPS)
        return l2norm(alpha * instance + (1 - alpha) * consensus, eps=EPS)

    @property
    def label_dim(self) -> int:
        """Return the width 2 D of the global vectors, which concatenate two levels."""
        return 2 * self.hparams["embed_dim"]

    @full_precision
    def training_scores(
        self, images: Encoded, captions: Encoded
    ) -> dict[str, tuple[float, Tensor]]:
        """Compute scores (I, C) of the fused (main), instance and consensus levels."""
        assert images.aux is not None and captions.aux is not None
        v, t = images.aux, captions.aux
        v2, t2 = (
            x["fused"]
            if "fused" in x
            else self.fuse(x["instance"], x["consensus"], self.levels.alpha)
            for x in (v, t)
        )
        fused, instance, consensus = self.levels.level_weights or (3.0, 5.0, 1.0)
        return {
            "fused": (fused, v2 @ t2.T),
            "instance": (instance, v["instance"] @ t["instance"].T),
            "consensus": (consensus, v["consensus"] @ t["consensus"].T),
        }

    @full_precision
    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute KL(p_t || p_v) of each caption and its image (3.4); both have gradients.

        The sum over the batch as published, or the mean if the ranking loss is a mean: a sum would
        drown it. With `loss.gather` a summed ranking loss covers the batches of all P processes,
        whose gradients DDP averages, so that this sum counts P times.
        """
        assert images.aux is not None and captions.aux is not None
        text = captions.aux["log_concepts"]  # (C, K)
        image = images.aux["log_concepts"][pairs.captions.image]  # (C, K)
        divergence = (text.exp() * (text - image)).sum()
        if self.loss is not None and not self.objective.is_summed:
            divergence = mean_of_all(self, divergence / len(text), pairs)
        elif self.loss is not None and self.objective.gather:
            divergence = divergence * rank_and_size()[1]
        return {"kl": self.levels.kl_weight * divergence}

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show the attention of the instance level, and the concepts of both sides."""
        regions, words = self.region_scores(pairs.images), self.word_scores(pairs.captions)
        found = Details(
            regions={"what the image's vector is made of": array(regions[0])},
            words={"what the sentence's vector is made of": array(words[0])},
        )
        if self.concepts is None:
            return found
        concepts = self.graph()
        sides = (
            self.image_levels(pairs.images, concepts),
            self.caption_levels(pairs.captions, concepts),
        )
        image, text = (array(x.aux["log_concepts"][0].exp()) for x in sides if x.aux)
        return found._replace(names={"concepts": strongest(self.concepts.words, image, text)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups in which the concept graph's learning rate falls by 0.2 instead of 0.1."""
        main, *others = super().parameter_groups()
        graph = list(self.graph.parameters())
        known = {id(p) for p in graph}
        main["params"] = [p for p in main["params"] if id(p) not in known]
        return [main, *others, {"name": "graph", "params": graph, "gamma": 0.2}]
