"""VSE++: one linear map of the image, the last state of a GRU over the caption, one score.

Faghri, Fleet, Kiros, Fidler: VSE++: Improving Visual-Semantic Embeddings with Hard Negatives,
BMVC 2018. With measure="order" it is the order embedding of Vendrov et al., ICLR 2016.
"""

from typing import Any

from torch import Tensor

from itm.batch import Captions, Encoded, Images
from itm.layers.functional import full, l2norm, masked_mean, order_scores
from itm.layers.projection import region_projection
from itm.layers.text import text_encoder
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.utils.checks import check_choice

EPS = 1e-12  # added to norms; the original adds nothing and gives NaN for a zero vector


class VSEPP(Matcher):
    """Visual-semantic embeddings with hard negatives.

    image:   v = W x + b of unit length; x is the image's vector, or the mean of its regions.
    caption: t = last state of a one-directional GRU, of unit length (with BERT: the mean of the
             word pieces).
    score:   s = <v, t>; with measure="order" s = -||max(0, t - v)||.

    The published forms: VSE0 (no_imgnorm, all negatives), VSE++ (hardest negatives), Order0
    (measure="order", use_abs, all negatives, margin 0.05), Order++ (measure="order", hardest).

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the image features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        measure: "cosine" or "order".
        use_abs: take absolute values of both vectors.
        no_imgnorm: do not normalise the image vector.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown.

    Examples:
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = VSEPP(len(vocab), img_dim=6, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> matcher.embed(captions=["a red dog", "cat"]).shape
        (2, 8)
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 4096,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        measure: str = "cosine",
        use_abs: bool = False,
        no_imgnorm: bool = False,
        text: dict[str, Any] | None = None,
        *,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(ignore=OBJECTS)
        check_choice("measure", measure, ("cosine", "order"))
        self.measure = measure
        self.use_abs = use_abs
        self.no_imgnorm = no_imgnorm
        self.image = region_projection(img_dim, embed_dim)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, False
        )

    def encode_images(self, images: Images) -> Encoded:
        """Compute image vectors (I, D) from the mean of the real regions."""
        vector = self.image(masked_mean(images.regions, images.mask))
        vector = full(vector) if self.no_imgnorm else l2norm(vector, eps=EPS)
        return Encoded(vector.abs() if self.use_abs else vector)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute caption vectors (C, D)."""
        words, mask = self.text(captions)  # (C, L, D)
        vector = l2norm(self.text.pool(words, mask), eps=EPS)
        return Encoded(vector.abs() if self.use_abs else vector)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C); "order" penalises what the caption exceeds the image by."""
        if self.measure == "cosine":
            return super().similarity(images, captions)
        assert images.vector is not None and captions.vector is not None
        return order_scores(images.vector, captions.vector)

    @property
    def ranks_by_vectors(self) -> bool:
        """Whether the score is a dot product; an order embedding's score is not."""
        return self.measure == "cosine"

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the differences before and after the clamp for each of the D columns."""
        return 4 if self.measure == "cosine" else 3 * self.hparams["embed_dim"]
