"""CASC: SCAN's attention in both directions, held together by labels that both sides must name.

Xu, Wang, Yang, Zuo, Shen, Shen: Cross-Modal Attention With Semantic Consistence for Image-Text
Matching, IEEE TNNLS 31(12), 2020.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.cross_attention import CrossAttention
from itm.layers.functional import l2norm
from itm.layers.text import text_encoder
from itm.matcher.matcher import OBJECTS, Matcher
from itm.models.casc.label_head import LabelHead
from itm.models.scan import (
    State,
    encoder_options,
    from_encoders,
    has_encoders,
    published_encoders,
    region_projection,
)
from itm.text.labels import positive_weights


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

    Args:
        vocab_size: words V.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        direction: "both"; or "t2i" or "i2t" alone, which has one global vector and ranks with its
            local score.
        raw_norm: how products are normalised before the softmax, as in `itm.models.SCAN`.
        t2i_temperature: of the words' attention (the original's lambda_softmax_avg).
        t2i_aggregation: of the words' scores.
        i2t_temperature: of the regions' attention (lambda_softmax_lse).
        i2t_aggregation: of the regions' scores.
        lambda_lse: of LogSumExp.
        num_labels: number K of labels.
        hidden: width of the label head's hidden layer.
        label_weight: weight of the label loss; 0 leaves it out.
        pos_weight: weight of a label that is present: K numbers, one for all, or a .npy file of
            them; None or "auto" = from `set_labels`, and 1 without it.
        head_lr_scale: learning rate of the label head relative to the rest (0.01 against 2e-4).
        alpha: share of the local score.
        weight_norm: the region projection as one gain times a direction.
        normalize_images: unit region vectors.
        normalize_words: unit word vectors.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an unknown option, or another number of positive weights than of labels.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        vocab_size: int,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        direction: str = "both",
        raw_norm: str = "clipped_l2norm",
        t2i_temperature: float = 9.0,
        t2i_aggregation: str = "Mean",
        i2t_temperature: float = 4.0,
        i2t_aggregation: str = "LogSumExp",
        lambda_lse: float = 5.0,
        num_labels: int = 500,
        hidden: int = 512,
        label_weight: float = 10.0,
        pos_weight: list[float] | float | str | None = None,
        head_lr_scale: float = 50.0,
        alpha: float = 0.8,
        weight_norm: bool = False,
        normalize_images: bool = True,
        normalize_words: bool = True,
        text: dict[str, Any] | None = None,
        *,
        loss=None,
        optimizer=None,
        scheduler=None,
    ):
        super().__init__(loss, optimizer, scheduler)
        # The numbers, so that a checkpoint does without the file.
        pos_weight = positive_weights(pos_weight, num_labels)
        self.save_hyperparameters(ignore=OBJECTS)
        if direction not in ("both", "t2i", "i2t"):
            raise ValueError(f"direction={direction!r} is none of both, t2i, i2t")
        self.direction = direction
        self.label_weight = label_weight
        self.head_lr_scale = head_lr_scale
        self.alpha = alpha
        self.normalize_images = normalize_images
        self.normalize_words = normalize_words
        self.image = region_projection(img_dim, embed_dim, weight_norm)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, bidirectional
        )
        self.t2i = CrossAttention("t2i", raw_norm, t2i_temperature, t2i_aggregation, lambda_lse)
        self.i2t = CrossAttention("i2t", raw_norm, i2t_temperature, i2t_aggregation, lambda_lse)
        self.head = LabelHead(embed_dim, hidden, num_labels, pos_weight)

    def set_labels(self, labels: Any) -> None:
        """Take the positive weights of a label vocabulary, unless some were given.

        Args:
            labels: an object with `pos_weight()`, K numbers, such as `itm.text.labels.Labels`.

        Raises:
            ValueError: another number of labels.
        """
        if self.hparams["pos_weight"] is None:
            self.head.set_pos_weight(labels.pos_weight())

    @property
    def _sides(self) -> list[CrossAttention]:
        """The directions in use."""
        return [x for x in (self.t2i, self.i2t) if self.direction in ("both", x.direction)]

    def encode_images(self, images: Images) -> Encoded:
        """Region vectors (I, R, D)."""
        regions = self.image(images.regions)
        regions = l2norm(regions) if self.normalize_images else regions
        return self._sides[0].prepare(Encoded(parts=regions, mask=images.mask))

    def encode_captions(self, captions: Captions) -> Encoded:
        """Word vectors (C, L, D), zero beyond each caption's length."""
        words, mask = self.text(captions)
        return Encoded(
            parts=l2norm(words) if self.normalize_words else words,
            mask=mask,
            aux={"lengths": torch.tensor(captions.lengths)},  # stays on the host
        )

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Scores (I, C): local and global in two directions, local alone in one."""
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
        """The local score: the labels act on training through their own loss only."""
        return {"main": (1.0, self._local(images, captions))}

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """The label loss of matching pairs.

        Without labels in the batch it is left out, except in training.

        Raises:
            ValueError: no labels in training, or another number of labels.
        """
        labels = pairs.captions.labels
        if self.label_weight == 0 or (labels is None and not self.training):
            return {}
        if labels is None:
            raise ValueError(
                "CASC trains on the labels (C, K) of each caption's image: pass labels=... to "
                "matcher.pairs, build the data module with needs=['labels'], or build the matcher "
                "with label_weight=0"
            )
        terms = []
        for side in self._sides:
            vectors = side.matched_means(images, captions, pairs.captions.image)  # (C, D)
            terms.append(self.head.loss(vectors, labels))
        return {"labels": self.label_weight * torch.stack(terms).sum()}

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Weights (I, C, R, L) of the words to the regions; with "i2t", of the regions to words."""
        return self._sides[0].weights(images, captions)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The label head learns faster, on a schedule and with a clip of its own."""
        head = list(self.head.parameters())
        known = {id(p) for p in head}
        groups = super().parameter_groups()
        groups[0]["params"] = [p for p in groups[0]["params"] if id(p) not in known]
        schedule = {"step_size": 3, "gamma": 0.8}
        own = {"name": "labels", "params": head, "lr_scale": self.head_lr_scale, "clip": "labels"}
        return [*groups, {**own, **schedule}]

    def pair_floats(self, regions: int, words: int) -> int:
        """As SCAN, and the mean attention of both directions."""
        return 6 * regions * words + 2 * (regions + words)

    @property
    def label_dim(self) -> int | None:
        """None: it has its own label head."""
        return None

    def to_published(self) -> tuple[list[State], dict[str, Any]]:
        """State dicts (image, text, label head) and options of the original code.

        The positive weights are a file of their own there.

        Raises:
            ValueError: another alpha than the original's.
        """
        h = self.hparams
        if self.direction == "both" and h["alpha"] != 0.8:
            raise ValueError(f"the original CASC has alpha=0.8; this one has {h['alpha']}")
        head = {old: self.head.state_dict()[new] for old, new in HEAD_TENSORS.items()}
        options = {old: h[new] for old, new in OPTIONS.items()}
        options["cross_attn"] = "all" if self.direction == "both" else self.direction
        options |= {"caption_vocab": h["num_labels"], "fc_hidden": h["hidden"]}
        options["caption_np"] = "./vocab/"  # of the positive weights, which only training reads
        return [*published_encoders(self), head], {**options, **encoder_options(self)}


# Weights of the original code ---------------------------------------------------------------------

OPTIONS = {  # original option -> our argument
    "raw_feature_norm": "raw_norm",
    "lambda_softmax_avg": "t2i_temperature",
    "t2i_agg_func": "t2i_aggregation",
    "lambda_softmax_lse": "i2t_temperature",
    "i2t_agg_func": "i2t_aggregation",
    "lambda_lse": "lambda_lse",
}
HEAD_TENSORS = {  # original name -> ours, in the head
    "fc1.weight": "first.weight",
    "fc1.bias": "first.bias",
    "fc2.weight": "second.weight",
    "fc2.bias": "second.bias",
}


def published(states: list[State], options: dict[str, Any]) -> tuple[dict[str, Any], State] | None:
    """Arguments and weights from the original's image, text and label head state dicts.

    The weights tell nothing about directions and aggregations: they are read from the options, and
    are the published model's where no options were saved. Positive weights are 1: the original
    keeps them in a file of their own, and only training needs them.
    """
    if len(states) != 3 or not has_encoders(states) or not set(states[2]) & set(HEAD_TENSORS):
        return None
    arguments, tensors = from_encoders(states, options)
    head = states[2]
    num_labels, hidden = head["fc2.weight"].shape
    own = {new: options[old] for old, new in OPTIONS.items() if old in options}
    cross = options.get("cross_attn", "all")
    arguments |= {"direction": "both" if cross == "all" else cross, **own}
    arguments |= {"num_labels": num_labels, "hidden": hidden}
    tensors |= {f"head.{HEAD_TENSORS.get(old, old)}": value for old, value in head.items()}
    return arguments, {**tensors, "head.pos_weight": torch.ones(num_labels)}
