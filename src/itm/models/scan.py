"""SCAN: words attend to the regions of an image, or regions attend to the words of a caption.

Lee, Chen, Hua, Hu, He: Stacked Cross Attention for Image-Text Matching, ECCV 2018. The attention
itself, which CASC shares, is in `itm.layers.cross_attention`.
"""

from typing import Any

from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.cross_attention import CrossAttention
from itm.layers.projection import Norms, region_projection
from itm.layers.text import text_encoder
from itm.matcher.explanation import Details, attention_details
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.models.parts import encode_regions, encode_words
from itm.utils.options import flat, flat_keywords


class SCAN(Matcher):
    """Stacked cross attention network.

    image:   regions v = W x + b of unit length.
    caption: words w = mean of the two directions of a GRU, of unit length.
    score:   each query (t2i: word, i2t: region) is compared with its attended vector of the other
             side, and the comparisons are aggregated; see `itm.layers.cross_attention`.

    The defaults are the published "t-i AVG" model. Published temperatures are 9 (t2i) and 4 (i2t);
    published values of lambda_lse are 6 (t2i), and for i2t 5 on Flickr30K and 20 on COCO. The
    options of `attention` and `norms` are also accepted as keywords: SCAN(..., direction="i2t").

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        bidirectional: average a forward and a backward GRU.
        attention: direction, norm, temperature and aggregation.
        norms: options of normalisation.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = SCAN(len(vocab), img_dim=6, embed_dim=8, direction="i2t")
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
        bidirectional: bool = True,
        *,
        attention: CrossAttention = CrossAttention(),  # noqa: B008
        norms: Norms = Norms(),  # noqa: B008
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(flat(locals()), ignore=OBJECTS)
        self.norms = norms
        self.image = region_projection(img_dim, embed_dim, norms.weight_norm)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, bidirectional
        )
        self.cross = attention

    def encode_images(self, images: Images) -> Encoded:
        """Compute region vectors (I, R, D)."""
        return encode_regions(images, self.image, self.norms, self.cross)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute word vectors (C, L, D), zero beyond each caption's length."""
        return encode_words(captions, self.text, self.norms.normalize_words)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C)."""
        return self.cross.similarity(images, captions)

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute weights (I, C, R, L), which sum to 1 over regions in t2i, over words in i2t."""
        return self.cross.weights(images, captions)

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the products of a pair and about five arrays of the same size."""
        return 6 * regions * words

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show which regions each word attends to, or which words each region attends to."""
        return attention_details(self, images, captions, self.cross.direction)
