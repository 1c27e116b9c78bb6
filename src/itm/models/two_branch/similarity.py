"""Two-branch similarity network: two branches, and a small network that scores their product.

Wang, Li, Huang, Lazebnik: Learning Two-Branch Neural Networks for Image-Text Matching Tasks,
TPAMI 41(2), 2019. The authors published no code; sizes and layers follow its descendant CITE
(Plummer et al.: Conditional Image-Text Embedding Networks, ECCV 2018), whose weights can be loaded.
"""

from typing import Any

import torch
from torch import Tensor, nn

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, l2norm
from itm.layers.sentence import sentence_encoder
from itm.matcher.gather import mean_of_all
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler
from itm.models.two_branch.branches import (
    EPS,
    LEVELS,
    Branch,
    Dense,
    TwoBranch,
    real_rows,
    scoring_regions,
)
from itm.utils.checks import check_choice


class TwoBranchSimilarity(TwoBranch):
    """Similarity network.

    branch: x -> linear -> batch norm -> ReLU -> dropout -> linear -> unit length, per side.
    score:  s = w . h2(h1(v * t)) + b, a logit; h1, h2: linear -> batch norm -> ReLU.
    CITE:   h2 = sum_k p_k(t) h2_k, a mixture of `num_experts` parallel layers with weights
            p = softmax(concept branch of the sentence).

    Args:
        vocab_size: number V of words; not needed for text=vectors and text=bert.
        img_dim: width F of the image or region features.
        word_dim: width of the word vectors (text=mean, attend, gru).
        sentence_dim: width of precomputed sentence vectors, or of the result of text=gru and bert.
        hidden_dim: width between the two linear maps of a branch.
        embed_dim: width D of the product.
        joint_dims: widths of h1 and h2.
        dropout: dropout in the branches in training.
        bn_momentum: weight of the batch in the running statistics (1 - TensorFlow's decay).
        bn_eps: added to the variance.
        bn_biased: track the biased variance of regions and products, as in CITE. For sentences the
            unbiased variance is always tracked (TensorFlow does either, depending on the rank of a
            tensor).
        norm_axis: "features" scales each region to unit length (the paper); "regions" scales each
            feature over the regions of an image, as in CITE's weights, at level "region" only. CITE
            pads images with zero regions that count as real: for its exact numbers, give the same
            number of regions per image, zeros included.
        num_experts: number of parallel layers h2 (CITE); 0 = one layer and no concept branch.
        concept_l1: weight of the mean L1 norm of the concept logits (CITE).
        weight_penalty: three weights c of the penalties 0.5 c |W|^2, for linear maps before a batch
            norm, the branches' second maps, and the last map (CITE: 5e-4, 1e-3, 5e-3); None = no
            penalty.
        text: sentence encoder, see `itm.layers.sentence`; None = {"name": "mean"}.
        text_lr_scale: learning rate of the sentence branch relative to the rest.
        level: what a caption is compared with: "image", the mean of its regions; or "region", for
            phrases, where an image scores as its best region.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = TwoBranchSimilarity(len(vocab), img_dim=6, hidden_dim=16, embed_dim=8)
        >>> matcher.vocab = vocab
        >>> matcher.score(np.ones((3, 5, 6), np.float32), ["a red dog", "cat"]).shape
        (3, 2)
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        sentence_dim: int | None = None,
        hidden_dim: int = 2048,
        embed_dim: int = 512,
        joint_dims: list[int] | None = None,
        dropout: float = 0.5,
        bn_momentum: float = 0.9,
        bn_eps: float = 1e-5,
        bn_biased: bool = True,
        norm_axis: str = "features",
        num_experts: int = 0,
        concept_l1: float = 5e-5,
        weight_penalty: list[float] | None = None,
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
        check_choice("norm_axis", norm_axis, ("features", "regions"))
        if norm_axis == "regions" and level == "image":
            raise ValueError(
                "norm_axis=regions needs level=region: at level=image an image has one vector only"
            )
        norm = {"momentum": bn_momentum, "eps": bn_eps, "biased": bn_biased}
        plain = {**norm, "biased": False}
        first, second = joint_dims or [512, 256]
        self.level = level
        self.needs_regions = level == "region"
        self.norm_axis = norm_axis
        self.concept_l1 = concept_l1
        self.weight_penalty = weight_penalty
        self.text_lr_scale = text_lr_scale
        self.text = sentence_encoder(text or {"name": "mean"}, vocab_size, word_dim, sentence_dim)
        self.image = Branch(img_dim, hidden_dim, embed_dim, dropout, norm)
        self.sentence = Branch(self.text.dim, hidden_dim, embed_dim, dropout, plain)
        self.concept = (
            Branch(self.text.dim, hidden_dim, num_experts, dropout, plain) if num_experts else None
        )
        self.joint = Dense(embed_dim, first, norm)
        self.experts = nn.ModuleList(Dense(first, second, norm) for _ in range(num_experts or 1))
        self.last = nn.Linear(second, 1)

    def encode_regions(self, images: Images) -> Tensor:
        """Compute region vectors (I, R, D), zero at padding."""
        regions = self.branch_regions(images)
        return l2norm(regions, dim=1 if self.norm_axis == "regions" else -1, eps=EPS)

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute caption vectors (C, D), and with experts their logits (C, K)."""
        sentences = self.text(captions)
        aux = None if self.concept is None else {"concepts": full(self.concept(sentences))}
        return Encoded(l2norm(self.sentence(sentences), eps=EPS), aux=aux)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute logits (I, C); at level "region" of the best region."""
        assert captions.vector is not None
        vectors, logits = captions.vector, (captions.aux or {}).get("concepts")  # (C, D), (C, K)
        if images.vector is not None:
            return self.logit(images.vector[:, None] * vectors, logits)  # (I, C, D) -> (I, C)
        assert images.parts is not None and images.mask is not None
        mask = scoring_regions(images.mask)[:, None].expand(-1, len(vectors), -1)  # (I, C, R)
        products = images.parts[:, None] * vectors[:, None]  # (I, C, R, D)
        if logits is not None:
            logits = logits[:, None]  # (C, 1, K), the same for all regions
        return self.masked_logit(products, mask, logits).amax(-1)

    def region_scores(self, regions: Tensor, mask: Tensor, captions: Encoded) -> Tensor:
        """Compute logits (N, R) of each caption with the regions (N, R, D) of its row."""
        assert captions.vector is not None
        logits = (captions.aux or {}).get("concepts")
        products = regions * captions.vector[:, None]
        return self.masked_logit(products, mask, None if logits is None else logits[:, None])

    def masked_logit(self, products: Tensor, mask: Tensor, concepts: Tensor | None) -> Tensor:
        """Compute `logit` for real regions only, because of the batch norms; -inf elsewhere.

        Args:
            products: (..., R, D).
            mask: (..., R).
            concepts: logits (..., 1, K), or None.
        """
        width = products.shape[-1]
        if concepts is not None:  # (..., R, D + K)
            products = torch.cat([products, concepts.expand(*mask.shape, -1)], -1)

        def rows(x: Tensor, real: Tensor | None) -> Tensor:
            given = None if concepts is None else x[:, width:]
            return self.logit(x[:, :width], given, real)[:, None]

        scores = real_rows(rows, products, mask).squeeze(-1)
        return scores.masked_fill(~mask, float("-inf"))

    def logit(
        self, products: Tensor, concepts: Tensor | None, mask: Tensor | None = None
    ) -> Tensor:
        """Apply the joint network: (..., D) -> (...), in float32.

        Args:
            products: (..., D) v * t.
            concepts: (..., K) logits of the experts, broadcast over the products, or None.
            mask: (n,) rows that the batch norms' statistics cover, None = all.
        """
        rows = self.joint(products.reshape(-1, products.shape[-1]), mask)  # (n, first)
        if concepts is None:
            mixed = self.experts[0](rows, mask)  # (n, second)
        else:
            weight = concepts.softmax(-1).expand(*products.shape[:-1], -1)
            weight = weight.reshape(len(rows), -1, 1)  # (n, K, 1)
            mixed = sum(expert(rows, mask) * weight[:, k] for k, expert in enumerate(self.experts))
        return full(self.last(mixed)).reshape(products.shape[:-1])

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute the penalties of concept logits and weights, if they are in use."""
        terms = super().extra_losses(pairs, images, captions)
        if captions.aux is not None:
            sizes = captions.aux["concepts"].abs().sum(1)  # (C,)
            terms["concepts"] = self.concept_l1 * mean_of_all(self, sizes.mean(), pairs)
        if self.weight_penalty is not None:
            branches = [b for b in (self.image, self.sentence, self.concept) if b is not None]
            layers = (
                [m.linear for m in self.modules() if isinstance(m, Dense)],
                [branch.second for branch in branches],
                [self.last],
            )
            squares = [torch.stack([x.weight.square().sum() for x in group]) for group in layers]
            penalties = [
                0.5 * c * x.sum() for c, x in zip(self.weight_penalty, squares, strict=True)
            ]
            terms["weights"] = torch.stack(penalties).sum()
        return terms

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the product and every layer's values before and after batch norm, per region."""
        layers = [self.joint, *self.experts]
        width = sum(2 * layer.linear.out_features for layer in layers)
        return regions * (self.hparams["embed_dim"] + width)
