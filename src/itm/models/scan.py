"""SCAN: words attend to the regions of an image, or regions to the words of a caption.

Lee, Chen, Hua, Hu, He: Stacked Cross Attention for Image-Text Matching, ECCV 2018.
"""

from typing import Any

import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images
from itm.layers.cross_attention import CrossAttention
from itm.layers.functional import l2norm, xavier_
from itm.layers.text import BertText, text_encoder
from itm.matcher.matcher import OBJECTS, Matcher

State = dict[str, Tensor]


class SCAN(Matcher):
    """Stacked cross attention network.

    image:   regions v = W x + b of unit length.
    caption: words w = mean of the two directions of a GRU, of unit length.
    score:   each query (t2i: word, i2t: region) is compared with what it attends to on the other
             side, and the comparisons are aggregated; see `itm.layers.cross_attention`.

    The defaults are the published "t-i AVG" model.

    Args:
        vocab_size: words V.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        direction: "t2i", words attend to regions, or "i2t", regions attend to words.
        raw_norm: how products are normalised along the queries before the softmax:
            "clipped_l2norm", "l2norm", "clipped_l1norm", "l1norm", "clipped", "softmax", "no_norm".
        temperature: of the attention, lambda_softmax (t2i: 9, i2t: 4).
        aggregation: of the queries' scores: "Mean", "LogSumExp", "Max" or "Sum".
        lambda_lse: of LogSumExp (t2i: 6; i2t: 5 on Flickr30K, 20 on COCO).
        weight_norm: the region projection as one gain times a direction.
        normalize_images: unit region vectors.
        normalize_words: unit word vectors.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.
    """

    def __init__(
        self,
        vocab_size: int,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        direction: str = "t2i",
        raw_norm: str = "clipped_l2norm",
        temperature: float = 9.0,
        aggregation: str = "Mean",
        lambda_lse: float = 6.0,
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
        self.save_hyperparameters(ignore=OBJECTS)
        self.normalize_images = normalize_images
        self.normalize_words = normalize_words
        self.image = region_projection(img_dim, embed_dim, weight_norm)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, bidirectional
        )
        self.cross = CrossAttention(direction, raw_norm, temperature, aggregation, lambda_lse)

    def encode_images(self, images: Images) -> Encoded:
        """Region vectors (I, R, D)."""
        regions = self.image(images.regions)
        regions = l2norm(regions) if self.normalize_images else regions
        return self.cross.prepare(Encoded(parts=regions, mask=images.mask))

    def encode_captions(self, captions: Captions) -> Encoded:
        """Word vectors (C, L, D), zero beyond each caption's length."""
        words, mask = self.text(captions)
        return Encoded(
            parts=l2norm(words) if self.normalize_words else words,
            mask=mask,
            aux={"lengths": torch.tensor(captions.lengths)},  # stays on the host
        )

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Scores (I, C)."""
        return self.cross.similarity(images, captions)

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Weights (I, C, R, L); they sum to 1 over the regions in t2i, over the words in i2t."""
        return self.cross.weights(images, captions)

    def pair_floats(self, regions: int, words: int) -> int:
        """The products of a pair and about five arrays of their size."""
        return 6 * regions * words

    def to_published(self) -> tuple[list[State], dict[str, Any]]:
        """State dicts (image, text) and options of the original code."""
        h = self.hparams
        options = {old: h[new] for old, new in OPTIONS.items()}
        return published_encoders(self), {**options, **encoder_options(self)}


def region_projection(img_dim: int, embed_dim: int, weight_norm: bool = False) -> nn.Linear:
    """Linear map F -> D; with `weight_norm`, its weight is g V / ||V|| with one scalar gain g."""
    if weight_norm:
        return nn.utils.parametrizations.weight_norm(nn.Linear(img_dim, embed_dim), dim=-1)
    return xavier_(nn.Linear(img_dim, embed_dim))


# Weights of the original code ---------------------------------------------------------------------

OPTIONS = {  # original option -> our argument
    "cross_attn": "direction",
    "raw_feature_norm": "raw_norm",
    "lambda_softmax": "temperature",
    "agg_func": "aggregation",
    "lambda_lse": "lambda_lse",
}
IMAGE_TENSORS = {  # original name -> ours
    "fc.weight": "image.weight",
    "fc.bias": "image.bias",
    "fc.weight_g": "image.parametrizations.weight.original0",
    "fc.weight_v": "image.parametrizations.weight.original1",
}


def published(states: list[State], options: dict[str, Any]) -> tuple[dict[str, Any], State] | None:
    """Arguments and weights from the original's image and text state dicts.

    The weights tell nothing about direction and aggregation: they are read from the options, and
    are the defaults of the original's command line where no options were saved.
    """
    if len(states) != 2 or not has_encoders(states):
        return None
    # VSE++ has the same tensors, an option of its own, and none of those of the attention.
    if "measure" in options and "cross_attn" not in options:
        return None
    if options.get("cross_attn") == "all":
        raise ValueError("weights of CASC (cross_attn=all) without the third part, its label head")
    arguments, tensors = from_encoders(states, options)
    defaults = {"cross_attn": "t2i", "raw_feature_norm": "clipped_l2norm", "lambda_softmax": 9.0}
    defaults |= {"agg_func": "LogSumExp", "lambda_lse": 6.0}
    own = {new: options.get(old, defaults[old]) for old, new in OPTIONS.items()}
    return {**arguments, **own}, tensors


def has_encoders(states: list[State]) -> bool:
    """The first two state dicts are this file's region projection and a GRU."""
    image, text = states[:2]
    return (
        any(name.startswith("fc.") for name in image)
        and not any(name.startswith(("Rs_GCN_", "img_rnn.")) for name in image)  # VSRN
        and any(name.startswith("rnn.") for name in text)
    )


def from_encoders(states: list[State], options: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Arguments and weights of the two encoders."""
    image, text = states[:2]
    weight_norm = "fc.weight_g" in image
    embed_dim, img_dim = image["fc.weight_v" if weight_norm else "fc.weight"].shape
    vocab_size, word_dim = text["embed.weight"].shape
    arguments = {
        "vocab_size": vocab_size,
        "img_dim": img_dim,
        "word_dim": word_dim,
        "embed_dim": embed_dim,
        "num_layers": sum(name.startswith("rnn.weight_ih") and name[-1].isdigit() for name in text),
        "bidirectional": "rnn.weight_ih_l0_reverse" in text,
        "weight_norm": weight_norm,
        "normalize_images": not options.get("no_imgnorm", False),
        "normalize_words": not options.get("no_txtnorm", False),
    }
    # An unknown name is kept, so that loading reports it.
    tensors = {IMAGE_TENSORS.get(name, name): value for name, value in image.items()}
    if weight_norm:  # old versions of PyTorch stored the gain with shape (1,)
        gain = IMAGE_TENSORS["fc.weight_g"]
        tensors[gain] = tensors[gain].reshape(())
    return arguments, tensors | {f"text.{name}": value for name, value in text.items()}


def published_encoders(matcher: Matcher) -> list[State]:
    """The two encoders' state dicts under their original names.

    Raises:
        ValueError: a text encoder that the original code does not have.
    """
    if isinstance(matcher.text, BertText):
        raise ValueError("the original code encodes text with a GRU; this matcher has text=bert")
    own = matcher.state_dict()
    image = {old: own[new] for old, new in IMAGE_TENSORS.items() if new in own}
    text = {k.removeprefix("text."): v for k, v in own.items() if k.startswith("text.")}
    return [image, text]


def encoder_options(matcher: Matcher) -> dict[str, Any]:
    """The options of the two encoders under their original names."""
    h = matcher.hparams
    return {
        "vocab_size": h["vocab_size"],
        "img_dim": h["img_dim"],
        "word_dim": h["word_dim"],
        "embed_size": h["embed_dim"],
        "num_layers": h["num_layers"],
        "bi_gru": h["bidirectional"],
        "precomp_enc_type": "weight_norm" if h["weight_norm"] else "basic",
        "no_imgnorm": not h["normalize_images"],
        "no_txtnorm": not h["normalize_words"],
    }
