"""CASC: SCAN's attention in both directions, with labels that both sides must predict.

Xu, Wang, Yang, Zuo, Shen, Shen: Cross-Modal Attention With Semantic Consistence for Image-Text
Matching, IEEE TNNLS 31(12), 2020.
"""

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.cross_attention import CrossAttention
from itm.layers.projection import Norms, region_projection
from itm.layers.text import text_encoder
from itm.matcher.explanation import WAYS, Details, array, strongest
from itm.matcher.gather import mean_of_all
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.models.casc.attention import TwoWayAttention
from itm.models.casc.label_head import LabelHead, LabelOptions
from itm.models.parts import encode_regions, encode_words
from itm.text.labels import label_weights
from itm.utils.options import flat, flat_keywords


class CASC(Matcher):
    """Cross-modal attention with semantic consistence.

    image:   regions v = W x + b of unit length.
    caption: words w = mean of the two directions of a GRU, of unit length.
    local:   mean of SCAN's two scores: words attend to regions, regions attend to words.
    global:  g_image, g_text = mean attended vector of a pair in either direction;
             s_global = cos(sigmoid head(g_image), sigmoid head(g_text)) over K labels.
    score:   alpha s_local + (1 - alpha) s_global; training ranks with s_local alone.
    loss:    ranking + label_weight [BCE(head(g_image), y) + BCE(head(g_text), y)] of matching
             pairs, y the labels of the image.

    The options of `attention`, `head` and `norms` are also accepted as keywords:
    CASC(..., direction="t2i", hidden=256).

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        attention: options of both directions of attention.
        num_labels: number K of labels.
        head: options of the label head and its loss.
        alpha: share of the local score.
        norms: options of normalisation.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown, or the number of positive weights is not K.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = CASC(len(vocab), img_dim=6, embed_dim=8, num_labels=4, hidden=16)
        >>> matcher.vocab = vocab
        >>> matcher.score(np.ones((3, 5, 6), np.float32), ["a red dog", "cat"]).shape
        (3, 2)
    """

    needs_regions = True
    needs_labels: ClassVar[bool] = True

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
        attention: TwoWayAttention = TwoWayAttention(),  # noqa: B008
        num_labels: int = 500,
        head: LabelOptions = LabelOptions(),  # noqa: B008
        alpha: float = 0.8,
        norms: Norms = Norms(),  # noqa: B008
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        # Saved as K numbers, or as None if `set_labels` is to provide them.
        head = replace(head, pos_weight=label_weights(head.pos_weight, num_labels))
        self.save_hyperparameters(flat(locals()), ignore=OBJECTS)
        self.direction = attention.direction
        self.label_weight = head.label_weight
        self.head_lr_scale = head.head_lr_scale
        self.alpha = alpha
        self.norms = norms
        self.image = region_projection(img_dim, embed_dim, norms.weight_norm)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, bidirectional
        )
        self.t2i, self.i2t = attention.t2i, attention.i2t
        self.head = LabelHead(embed_dim, head.hidden, num_labels, head.pos_weight)
        self.head.requires_grad_(head.label_weight != 0)  # DDP refuses parameters without gradient

    def set_labels(self, labels: Any) -> None:
        """Take the positive weights of a label vocabulary, unless `pos_weight` was given.

        Args:
            labels: an object whose `pos_weight()` returns K numbers, such as
                `itm.text.labels.Labels`.

        Raises:
            ValueError: the number of labels is not K.
        """
        if self.hparams["pos_weight"] is None:
            self.head.set_pos_weight(labels.pos_weight())

    @property
    def _sides(self) -> list[CrossAttention]:
        """Return the directions in use."""
        return [x for x in (self.t2i, self.i2t) if self.direction in ("both", x.direction)]

    def encode_images(self, images: Images) -> Encoded:
        """Compute region vectors (I, R, D)."""
        return encode_regions(images, self.image, self.norms, self._sides[0])

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute word vectors (C, L, D), zero beyond each caption's length."""
        return encode_words(captions, self.text, self.norms.normalize_words)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C): local plus global, or only local with a single direction."""
        if self.direction != "both":
            return self._local(images, captions)
        t2i, to_regions = self.t2i.similarity_and_means(images, captions)  # (I, C), (I, C, R)
        i2t, to_words = self.i2t.similarity_and_means(images, captions)  # (I, C), (I, C, L)
        assert images.parts is not None and captions.parts is not None
        same = self.head.agreement(images.parts, captions.parts, to_regions, to_words)
        return self.alpha * (t2i + i2t) / 2 + (1 - self.alpha) * same

    def _local(self, images: Encoded, captions: Encoded) -> Tensor:
        scores = [side.similarity(images, captions) for side in self._sides]
        return torch.stack(scores).mean(0)

    def training_scores(
        self, images: Encoded, captions: Encoded
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the local score; labels affect training only through the label loss."""
        return {"main": (1.0, self._local(images, captions))}

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute the label loss of matching pairs.

        In eval mode, a batch without labels has no label loss.

        Raises:
            ValueError: a training batch has no labels, or the number of labels is not K.
        """
        labels = pairs.captions.labels
        if self.label_weight == 0 or (labels is None and not self.training):
            return {}
        if labels is None:
            raise ValueError(
                "CASC trains on the labels (C, K) of each caption's image: pass labels=... to "
                "matcher.pairs, train with a RegionDataModule, which brings them, or build the "
                "matcher with label_weight=0"
            )
        terms = []
        for side in self._sides:
            vectors = side.matched_means(images, captions, pairs.captions.image)  # (C, D)
            terms.append(self.head.loss(vectors, labels))
        mean = mean_of_all(self, torch.stack(terms).sum(), pairs)
        return {"labels": self.label_weight * mean}

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute weights (I, C, R, L) of words to regions, or with "i2t" of regions to words."""
        return self._sides[0].weights(images, captions)

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show the attention of each direction, and the labels predicted from attended vectors."""
        row = torch.zeros(1, dtype=torch.long, device=self.device)
        attention, named = {}, {}
        for side in self._sides:
            attention[WAYS[side.direction]] = array(side.weights(images, captions)[0, 0])
            mean = side.matched_means(images, captions, row)
            named[side.direction] = array(self.head(mean)[0].sigmoid())
        if self.labels is None:
            return Details(attention)
        nothing = np.full(len(self.labels.words), np.nan)
        image, text = named.get("t2i", nothing), named.get("i2t", nothing)
        return Details(attention, names={"labels": strongest(self.labels.words, image, text)})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups in which the label head has its own learning rate, schedule and clip."""
        head = list(self.head.parameters())
        known = {id(p) for p in head}
        groups = super().parameter_groups()
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in known]
        schedule = {"step_size": 3, "gamma": 0.8}
        own = {"name": "labels", "params": head, "lr_scale": self.head_lr_scale, "clip": "labels"}
        return [*groups, {**own, **schedule}]

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the values of SCAN, and the mean attention of both directions."""
        return 6 * regions * words + 2 * (regions + words)

    @property
    def label_dim(self) -> int | None:
        """Return None, because CASC has its own label head."""
        return None
