"""VSRN: graph convolutions between regions, a GRU over the regions, and a captioning loss.

Li, Zhang, Li, Li, Fu: Visual Semantic Reasoning for Image-Text Matching, ICCV 2019. There is one
vector per image and one per caption, so similarity is a dot product.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.layers.functional import full, l2norm, order_scores, weighted
from itm.layers.text import text_encoder
from itm.matcher.explanation import Details, array
from itm.matcher.gather import mean_of_all
from itm.matcher.inputs import Features, check_features, check_images, image_batches
from itm.matcher.matcher import OBJECTS, LossFunction, MakeOptimizer, MakeScheduler, Matcher
from itm.matcher.scoring import evaluating, sent
from itm.models.vsrn.captioner import Captioner
from itm.models.vsrn.reasoning import EPS, RegionReasoning
from itm.text.vocabulary import PAD, START
from itm.utils.checks import check_choice
from itm.utils.log_files import say


class VSRN(Matcher):
    """Visual semantic reasoning network.

    image:   x = W r + b; `num_gcn` graph blocks; v = last state of a GRU over the regions.
    caption: t = last state of a GRU over the words; with BERT, whose last word piece is a marker,
             the mean of the word pieces.
    score:   s = <v, t> of unit vectors; with measure="order" s = -||max(0, t - v)||, the order
             embedding of Vendrov et al. (ICLR 2016).
    loss:    ranking + `caption_weight` x captioning (section 3.4).

    Two variants were published: for COCO (region_norm="columns", final_bn=False) and for Flickr30K
    (region_norm="none", final_bn=True).

    Args:
        vocab_size: number V of words; None = the matcher takes all sizes that are not given from
            the data module, before training starts.
        img_dim: width F of the region features.
        word_dim: width of the word embedding.
        embed_dim: width D of the joint space.
        num_layers: number of layers of the text GRU.
        num_gcn: number of graph blocks.
        region_norm: "columns" divides each of the D columns by its norm over the regions, before
            the graph blocks; "none" does not.
        final_bn: apply batch norm to the image vector.
        use_abs: take absolute values of both vectors.
        no_imgnorm: do not normalise the image vector.
        measure: "cosine" or "order".
        text: word encoder, {"name": "gru"} or {"name": "bert", ...}, see `itm.layers.text`.
        caption_weight: weight of the captioning loss; with 0 there is no captioner.
        caption_dim: width of the captioner's GRUs.
        caption_word_dim: width of the captioner's word embedding.
        caption_max_len: maximum number of tokens; the captioner cuts longer captions.
        caption_dropout: dropout of the captioner.
        loss: see `Matcher`.
        optimizer: see `Matcher`.
        scheduler: see `Matcher`.

    Raises:
        ValueError: an option is unknown.

    Examples:
        >>> import numpy as np
        >>> from itm.text import Vocabulary
        >>> vocab = Vocabulary.build(["a dog runs", "a red cat"], min_count=1)
        >>> matcher = VSRN(len(vocab), img_dim=6, embed_dim=8, num_gcn=1)
        >>> matcher.vocab = vocab
        >>> matcher.embed(captions=["a red dog", "cat"]).shape
        (2, 8)
        >>> len(matcher.describe(np.ones((3, 5, 6), np.float32)))  # one sentence per image
        3
    """

    needs_regions = True

    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 2048,
        num_layers: int = 1,
        num_gcn: int = 4,
        region_norm: str = "columns",
        final_bn: bool = False,
        use_abs: bool = False,
        no_imgnorm: bool = False,
        measure: str = "cosine",
        text: dict[str, Any] | None = None,
        caption_weight: float = 1.0,
        caption_dim: int = 512,
        caption_word_dim: int = 300,
        caption_max_len: int = 60,
        caption_dropout: float = 0.2,
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
        self.caption_weight = caption_weight
        self.image = RegionReasoning(img_dim, embed_dim, num_gcn, region_norm, final_bn)
        self.text = text_encoder(
            text or {"name": "gru"}, vocab_size, embed_dim, word_dim, num_layers, False
        )
        self.captioner = (
            Captioner(
                vocab_size,
                embed_dim,
                caption_dim,
                caption_word_dim,
                caption_max_len,
                caption_dropout,
            )
            if caption_weight
            else None
        )

    def on_fit_start(self) -> None:
        """Print how many training captions the captioner cuts."""
        reader = getattr(getattr(self.trainer, "datamodule", None), "reader", None)
        if self.captioner is not None and reader is not None:
            most = self.captioner.max_len
            cut = (reader("train").lengths > most).mean()
            if cut:
                say(
                    f"warning: {cut:.1%} of the training captions are cut for the captioner after "
                    f"{most} tokens (model.caption_max_len)"
                )

    def encode_images(self, images: Images) -> Encoded:
        """Compute image vectors (I, D), and in training region vectors for the captioner.

        Evaluation stores the encodings of a whole split; region vectors would take R times the
        memory.
        """
        vector, regions = self._image(images)
        if self.training and self.captioner is not None:
            return Encoded(vector, regions, images.mask)
        return Encoded(vector)

    def _image(self, images: Images) -> tuple[Tensor, Tensor]:
        """Compute image vectors (I, D) and region vectors (I, R, D)."""
        vector, regions = self.image(images)
        vector = vector if self.no_imgnorm else l2norm(vector, eps=EPS)
        return vector.abs() if self.use_abs else vector, regions

    def encode_captions(self, captions: Captions) -> Encoded:
        """Compute caption vectors (C, D)."""
        words, mask = self.text(captions)  # (C, L, D)
        vector = l2norm(self.text.pool(words, mask), eps=EPS)  # (C, D)
        return Encoded(vector.abs() if self.use_abs else vector)

    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Compute scores (I, C); "order" penalises what the caption exceeds the image by."""
        if self.measure == "cosine":
            return super().similarity(images, captions)
        assert images.vector is not None and captions.vector is not None
        return order_scores(images.vector, captions.vector)

    @property
    def ranks_by_vectors(self) -> bool:
        """Tell whether the score is a dot product; an order embedding's score is not."""
        return self.measure == "cosine"

    def pair_floats(self, regions: int, words: int) -> int:
        """Count the differences before and after the clamp for each of the D columns."""
        return 4 if self.measure == "cosine" else 3 * self.hparams["embed_dim"]

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute the captioning loss from the region vectors after the graph blocks."""
        if self.captioner is None:
            return {}
        regions = self.image(pairs.images)[1] if images.parts is None else images.parts
        loss = self.captioner(regions, pairs.images.mask, pairs.captions)
        return {"caption": weighted(self.caption_weight, mean_of_all(self, loss, pairs))}

    def region_scores(self, images: Images) -> Tensor:
        """Compute how much each region contributes to the image vector, <x_i, v>, (I, R).

        Padding gives 0. The paper ranks regions by this value in its visualisation (section 4.5).
        """
        vector, regions = self._image(images)
        return (regions * full(vector)[:, None]).sum(-1)

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Show how much each region contributes to the image vector."""
        scores = array(self.region_scores(pairs.images)[0])
        return Details(regions={"contribution to the image vector": scores})

    @torch.no_grad()
    def greedy(self, images: Images, start: int = START) -> tuple[Tensor, Tensor]:
        """Decode greedily: ids and log-probabilities, both (I, caption_max_len - 2).

        Raises:
            ValueError: this matcher has no captioner.
        """
        if self.captioner is None:
            raise ValueError(
                "this matcher has no captioner: train it with caption_weight > 0, or load its "
                "weights with from_published(..., captioner=...)"
            )
        with evaluating(self):
            return self.captioner.greedy(self.image(images)[1], images.mask, start)

    def describe(self, features: Features, batch_size: int = 128) -> list[str]:
        """Generate a sentence for each image, in eval mode.

        Args:
            features: (N, R, F) array or memory map, or a list of (R_i, F).
            batch_size: number of images described at once.

        Raises:
            ValueError: the matcher has no captioner, its vocabulary has no start and end markers,
                the features do not fit it, or its weights are in half precision.
        """
        markers = [] if self.vocab is None else self.vocab.encode("")
        if self.vocab is None or len(markers) != 2:
            raise ValueError("describing images needs a vocabulary with start and end markers")
        check_features(features, self)
        sentences = []
        for images in image_batches(features, batch_size):
            check_images(images, self)
            for ids in self.greedy(sent(self, images), markers[0])[0].cpu().numpy():
                over = np.isin(ids, [markers[1], PAD])
                words = self.vocab.decode(ids[: over.argmax() if over.any() else None].tolist())
                sentences.append(" ".join(words).replace(" ##", ""))  # ## continues a word piece
        return sentences
