"""Two-branch embedding network: an image branch and a sentence branch into a joint space.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 41(2), 2019. `branches.py` holds the parts shared with the similarity network.
"""

from typing import Any

from torch import Tensor

from itm.batch import Encoded
from itm.layers.functional import distances
from itm.layers.sentence import sentence_encoder
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler
from itm.models.two_branch.branches import LEVELS, Branch, TwoBranch, scoring_regions
from itm.utils.checks import check_choice


class TwoBranchEmbedding(TwoBranch):
    """Embedding network.

    branch: x -> linear -> batch norm -> ReLU -> dropout -> linear -> unit length, per side.
    score:  s = -d, d = sqrt(|v - t|^2 + 1e-4); as everywhere, larger is better.

    The defaults follow the authors' code, whose inputs are 4096 (VGG-19) and 6000 (HGLMM) wide,
    with text={"name": "vectors"}.

    Args:
        vocab_size: number V of words; not needed for text=vectors and text=bert.
        img_dim: width F of the image or region features.
        word_dim: width of the word vectors (text=mean, attend, gru).
        sentence_dim: width of precomputed sentence vectors, or of the result of text=gru and bert.
        hidden_dim: width between the two linear maps.
        embed_dim: width D of the joint space.
        dropout: dropout after the ReLU in training.
        bn_momentum: weight of the batch in the running statistics (1 - TensorFlow's momentum; the
            PyTorch port: 0.1).
        bn_eps: added to the variance.
        bn_biased: track the biased variance of a batch, as TensorFlow does; False as PyTorch does.
        text: sentence encoder, see `itm.layers.sentence`; None = {"name": "mean"}.
        text_lr_scale: learning rate of the sentence branch relative to the rest (PyTorch port: 2).
        level: what a caption is compared with: "image", the mean of its regions; or "region", for
            phrases, where an image scores as its best region.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = TwoBranchEmbedding(len(vocab), img_dim=6, hidden_dim=16, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> scores = matcher.score(np.ones((3, 5, 6), np.float32), ["a red dog", "cat"])
        >>> bool((scores < 0).all())  # negative distances
        True
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        sentence_dim: int | None = None,
        hidden_dim: int = 2048,
        embed_dim: int = 512,
        dropout: float = 0.5,
        bn_momentum: float = 0.9,
        bn_eps: float = 1e-5,
        bn_biased: bool = True,
        text: dict[str, Any] | None = None,
        text_lr_scale: float = 1.0,
        level: str = "image",
        *,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        self.save_hyperparameters(ignore=OBJECTS)
        check_choice("level", level, LEVELS)
        norm = {"momentum": bn_momentum, "eps": bn_eps, "biased": bn_biased}
        self.level = level
        self.needs_regions = level == "region"
        self.text_lr_scale = text_lr_scale
        self.text = sentence_encoder(text or {"name": "mean"}, vocab_size, word_dim, sentence_dim)
        self.image = Branch(img_dim, hidden_dim, embed_dim, dropout, norm)
        self.sentence = Branch(self.text.dim, hidden_dim, embed_dim, dropout, norm)

    def region_scores(self, regions: Tensor, mask: Tensor, captions: Encoded) -> Tensor:
        """Score each caption with the regions (N, R, D) of its row, (N, R)."""
        assert captions.vector is not None
        return -distances(regions, captions.vector[:, None]).squeeze(-1)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute negative distances (I, C); at level "region" to the nearest region."""
        assert captions.vector is not None
        if images.vector is not None:
            return -distances(images.vector, captions.vector)
        assert images.parts is not None and images.mask is not None
        scores = -distances(images.parts, captions.vector)  # (I, R, C)
        return scores.masked_fill(~scoring_regions(images.mask)[..., None], float("-inf")).amax(1)

    @property
    def ranks_by_vectors(self) -> bool:
        """Tell whether the level is "image"; the nearest unit vector has the largest product."""
        return self.level == "image"

    def pair_floats(self, regions: int, words: int) -> int:
        """Count products, squared distances and their root for each region."""
        return 4 * regions
