"""VSE-infinity: regions and words are pooled by a learnt operator; with PCME++'s second head.

Chen, Hu, Wu, Jiang, Wang: Learning the Best Pooling Strategy for Visual Semantic Embedding,
CVPR 2021; the operator itself is in `itm.layers.gpo`. `probabilistic` adds a head for variances:
Chun: Improved Probabilistic Image-Text Representations, ICLR 2024.
"""

from typing import Any

import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.batch_norm import masked_batch_norm
from itm.layers.functional import full, full_precision, l2norm, xavier_
from itm.layers.gaussian import csd_vectors, total_variance
from itm.layers.gpo import GPO
from itm.layers.text import text_encoder
from itm.matcher.explanation import Details, array
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.utils.checks import check_choice


class RegionProjection(nn.Module):
    """Project regions: f = W x + b + MLP(x), MLP = linear -> batch norm -> ReLU -> linear.

    Args:
        img_dim: width F of the regions.
        embed_dim: width D of the result; the hidden layer has D // 2.
        mlp: add the MLP; without it the map is linear.
        pad_statistics: count the padding of shorter images in the batch norm's statistics.
    """

    def __init__(self, img_dim: int, embed_dim: int, mlp: bool, pad_statistics: bool):
        super().__init__()
        self.pad_statistics = pad_statistics
        self.linear = xavier_(nn.Linear(img_dim, embed_dim))
        self.first = nn.Linear(img_dim, embed_dim // 2) if mlp else None
        self.norm = nn.BatchNorm1d(embed_dim // 2) if mlp else None
        self.second = nn.Linear(embed_dim // 2, embed_dim) if mlp else None

    def forward(self, regions: Tensor, mask: Tensor) -> Tensor:
        """Map regions (I, R, F) with mask (I, R) to (I, R, D); padding has any value."""
        if self.first is None or self.norm is None or self.second is None:
            return self.linear(regions)
        if self.training and self.pad_statistics:
            regions_read, counted = regions.masked_fill(~mask[..., None], 0), torch.ones_like(mask)
        else:
            regions_read, counted = regions, mask
        hidden = masked_batch_norm(self.norm, self.first(regions_read), counted)  # (I, R, D / 2)
        return self.linear(regions) + self.second(hidden.relu())


class LogVariance(nn.Module):
    """Head for the logarithm of a variance: linear -> GPO, and a layer norm if `gain` is given.

    Args:
        linear: the linear map to width D.
        bias: its initial bias.
        gain: initial gain of the layer norm; None = no layer norm.
    """

    def __init__(self, linear: nn.Linear, bias: float, gain: float | None):
        super().__init__()
        self.linear = linear
        nn.init.constant_(linear.bias, bias)
        self.pool = GPO()
        self.norm = None if gain is None else nn.LayerNorm(linear.out_features)
        if self.norm is not None and gain is not None:
            nn.init.constant_(self.norm.weight, gain)

    def forward(self, parts: Tensor, mask: Tensor) -> Tensor:
        """Map parts (N, P, inputs) with mask (N, P) to (N, D), in at least float32."""
        pooled = self.pool(self.linear(parts), mask)
        return pooled if self.norm is None else self._norm(pooled)

    @full_precision
    def _norm(self, pooled: Tensor) -> Tensor:
        assert self.norm is not None
        return self.norm(pooled.to(self.norm.weight.dtype))


class VSEInfinity(Matcher):
    """Visual-semantic embeddings with the generalised pooling operator.

    image:   f_r = W x_r + b + MLP(x_r) for each region; v = GPO(f) of unit length.
    caption: w = mean of the two directions of a GRU, or BERT's states mapped to D; t = GPO(w) of
             unit length. Markers are pooled like words.
    score:   s = <v, t>.

    probabilistic: v and t are the means of Gaussians, whose log variances come from further heads,
    GPO(W' x + b') of the regions and GPO(W' w + b') of the words. The score is minus the expected
    squared distance of samples, a dot product of vectors (D + 2); see `itm.layers.gaussian`.

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        no_imgnorm: do not normalise the image vector.
        no_txtnorm: do not normalise the caption vector.
        mlp: add the MLP to the regions' projection; PCME++ has none.
        pad_statistics: count the padding behind shorter images in the training statistics of the
            MLP's batch norm, as the published training does. It changes nothing if all images have
            the same number of regions.
        probabilistic: add heads for log variances, for `loss=pcmepp`.
        measure: score of a probabilistic matcher: "csd", or "mean" to compare the means alone.
        log_var_bias: initial log variance; the released configuration of PCME++ starts at 0, where
            D = 1024 variances of 1 saturate the loss.
        log_var_gain: initial gain of a layer norm on the log variances; None = no layer norm.
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown, or the vectors of a probabilistic matcher are not
            normalised.

    Examples:
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = VSEInfinity(len(vocab), img_dim=6, embed_dim=8, probabilistic=True)
        >>> matcher.vocab = vocab
        >>> vectors, uncertainty = matcher.embed(captions=["a red dog", "cat"], uncertainty=True)
        >>> vectors.shape, uncertainty.shape  # two coordinates more than the means
        ((2, 10), (2,))
    """

    needs_regions = True

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        no_imgnorm: bool = False,
        no_txtnorm: bool = False,
        mlp: bool = True,
        pad_statistics: bool = False,
        probabilistic: bool = False,
        measure: str = "csd",
        log_var_bias: float = -4.0,
        log_var_gain: float | None = None,
        text: dict[str, Any] | None = None,
        *,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__(loss, optimizer, scheduler)
        assert vocab_size is not None  # else the matcher waits, see `itm.matcher.waiting`
        self.save_hyperparameters(ignore=OBJECTS)
        check_choice("measure", measure, ("csd", "mean"))
        if probabilistic and (no_imgnorm or no_txtnorm):
            raise ValueError(
                "probabilistic=true needs means of unit length: set no_imgnorm=false and "
                "no_txtnorm=false"
            )
        self.no_imgnorm = no_imgnorm
        self.no_txtnorm = no_txtnorm
        self.probabilistic = probabilistic
        self.measure = measure
        self.image = RegionProjection(img_dim, embed_dim, mlp, pad_statistics)
        self.image_pool = GPO()
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, True
        )
        self.text_pool = GPO()
        if probabilistic:
            regions, words = nn.Linear(img_dim, embed_dim), nn.Linear(embed_dim, embed_dim)
            self.image_log_var = LogVariance(xavier_(regions), log_var_bias, log_var_gain)
            self.text_log_var = LogVariance(words, log_var_bias, log_var_gain)

    def encode_images(self, images: Images) -> Encoded:
        """Compute image vectors (I, D); probabilistic (I, D + 2) with mean and log variance."""
        vector = self.image_pool(self.image(images.regions, images.mask), images.mask)
        vector = vector if self.no_imgnorm else l2norm(vector)
        if not self.probabilistic:
            return Encoded(vector)
        return self._gaussian(vector, self.image_log_var(images.regions, images.mask), "image")

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute caption vectors (C, D); probabilistic (C, D + 2) with mean and log variance."""
        words, mask = self.text(captions)  # (C, L, D)
        vector = self.text_pool(words, mask)
        vector = vector if self.no_txtnorm else l2norm(vector)
        if not self.probabilistic:
            return Encoded(vector)
        return self._gaussian(vector, self.text_log_var(words, mask), "caption")

    def _gaussian(self, mean: Tensor, log_var: Tensor, side: str) -> Encoded:
        """Return a vector whose dot products are scores, and what the loss reads."""
        vector = csd_vectors(mean, log_var, side) if self.measure == "csd" else mean
        return Encoded(vector, aux={"mean": mean, "log_var": log_var})

    def uncertainty(self, encoded: Encoded) -> Tensor:
        """Return the total variance of each encoding, (N,).

        Raises:
            ValueError: the matcher is not probabilistic.
        """
        if encoded.aux is None or "log_var" not in encoded.aux:
            return super().uncertainty(encoded)
        return total_variance(encoded.aux["log_var"])

    @property
    def label_dim(self) -> int:
        """Width of the global vectors."""
        return self.hparams["embed_dim"] + 2 * (self.probabilistic and self.measure == "csd")

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show what each region and each word adds to <v, t>, and uncertainties."""
        regions = self.image(pairs.images.regions, pairs.images.mask)
        words, mask = self.text(pairs.captions)
        v = _addends(self.image_pool, regions, pairs.images.mask, self.no_imgnorm)
        t = _addends(self.text_pool, words, mask, self.no_txtnorm)
        sides = {"image": images, "sentence": captions} if self.probabilistic else {}
        return Details(
            regions={"what each region contributes": array((v @ t.sum(1).mT)[0, :, 0])},
            words={"what each word contributes": array((t @ v.sum(1).mT)[0, :, 0])},
            numbers={
                f"uncertainty of the {k}": float(self.uncertainty(x)) for k, x in sides.items()
            },
        )


def _addends(pool: GPO, parts: Tensor, mask: Tensor, raw: bool) -> Tensor:
    """Return what each part adds to the pooled vector (of unit length unless `raw`), (N, P, D)."""
    addends = pool.shares(parts, mask) * full(parts)
    length = torch.linalg.vector_norm(addends.sum(1, keepdim=True), dim=-1, keepdim=True)
    return addends if raw else addends / (length + 1e-8)
