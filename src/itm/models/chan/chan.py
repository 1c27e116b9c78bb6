"""CHAN: every word takes its best region, and the score pools the cosines of the words.

Pan, Wu, Zhang: Fine-grained Image-Text Matching by Cross-modal Hard Aligning Network, CVPR 2023.
The matching itself is in `itm.models.chan.matching`.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import l2norm
from itm.layers.projection import region_projection
from itm.layers.text import GRUText, text_encoder
from itm.matcher.explanation import Details, attention_details
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.models.chan.matching import HardAlignment
from itm.models.parts import encode_words
from itm.utils.options import flat, flat_keywords

HEADS = 8


class CHAN(Matcher):
    """Cross-modal hard aligning network.

    image:   f = W x + b of each region; with `self_attention` f + Attention(LayerNorm(f)) over the
             regions of the image; v = f of unit length.
    caption: words w = mean of the two directions of a GRU, or a linear map of BERT's last layer,
             of unit length. Markers count as words.
    score:   log sum_l exp(max_r <v_r, w_l> / beta), see `itm.models.chan.HardAlignment`.

    The defaults are the published recipe with a GRU. The one with BERT has `self_attention=False`
    and `pooling="Mean"`. The options of `matching` are also accepted as keywords:
    CHAN(..., pooling="Mean").

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        self_attention: relate the regions of an image by one attention block.
        attend_padding: in training, let regions attend to padding as the original does, so that an
            image's vectors depend on its batch. Otherwise padding changes no number.
        matching: coding and pooling.
        normalize_images: scale region vectors to unit length.
        normalize_words: scale word vectors to unit length.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown, or the attention's 8 heads do not divide `embed_dim`.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = CHAN(len(vocab), img_dim=6, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> matcher.score(np.ones((3, 5, 6), np.float32), ["a red dog", "cat"]).shape
        (3, 2)
    """

    needs_regions = True

    @flat_keywords
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        self_attention: bool = True,
        attend_padding: bool = False,
        *,
        matching: HardAlignment = HardAlignment(),  # noqa: B008
        normalize_images: bool = True,
        normalize_words: bool = True,
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(flat(locals()), ignore=OBJECTS)
        self.matching = matching
        self.normalize_images, self.normalize_words = normalize_images, normalize_words
        self.image = region_projection(img_dim, embed_dim)
        self.block = RegionAttention(embed_dim, attend_padding) if self_attention else None
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers
        )
        if isinstance(self.text, GRUText):
            nn.init.xavier_uniform_(self.text.embed.weight)  # unlike in SCAN and VSE-infinity

    def encode_images(self, images: Images) -> Encoded:
        """Compute region vectors (I, R, D), zero at padding."""
        regions = self.image(images.regions)
        if self.block is not None:
            regions = self.block(regions, images.mask)
        regions = l2norm(regions) if self.normalize_images else regions
        return Encoded(parts=regions * images.mask[..., None], mask=images.mask)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute word vectors (C, L, D), zero beyond each caption's length."""
        return encode_words(captions, self.text, self.normalize_words)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C)."""
        return self.matching.similarity(images, captions)

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Mark the winning region of each word, (I, C, R, L); see `HardAlignment.weights`."""
        return self.matching.weights(images, captions)

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the products of a pair, which a mask copies, and the values per part."""
        return 2 * regions * words + 3 * (regions + words)

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show which region each word takes, or which words each region reads."""
        direction = "t2i" if self.matching.coding == "VHA" else "i2t"
        return attention_details(self, images, captions, direction)


class RegionAttention(nn.Module):
    """Add to the regions of an image what they attend to: f + Attention(LayerNorm(f)).

    Eight heads, scores divided by sqrt(D / 8), no dropout (CHAN, section 3.1). The order of the
    regions plays no part.

    Args:
        embed_dim: width D.
        attend_padding: attend to padded regions too in training, see `CHAN`.

    Raises:
        ValueError: D is not a multiple of 8.
    """

    def __init__(self, embed_dim: int, attend_padding: bool = False):
        super().__init__()
        if embed_dim % HEADS:
            raise ValueError(
                f"the self-attention has {HEADS} heads, so embed_dim must be a multiple of "
                f"{HEADS}, got {embed_dim}; set self_attention=false or another embed_dim"
            )
        self.attend_padding = attend_padding
        self.norm = nn.LayerNorm(embed_dim)
        self.project_in = nn.Linear(embed_dim, 3 * embed_dim)
        self.project_out = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.project_in.weight)  # the initialisation of PyTorch's attention
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Relate regions (I, R, D); `mask` (I, R) marks the real ones."""
        heads = self.project_in(self.norm(regions)).unflatten(2, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (I, 8, R, D / 8) each
        seen = None
        if not (self.attend_padding and self.training):
            seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]  # (I, 1, 1, R)
        attended = F.scaled_dot_product_attention(query, key, value, seen)
        return regions + self.project_out(attended.transpose(1, 2).flatten(2))
