"""`Matcher`: the LightningModule that every backbone extends.

A backbone defines `encode_images`, `encode_captions` and, where it needs to, `similarity`,
`training_scores`, `extra_losses`, `attention`, `parameter_groups` and `pair_floats`. Training,
validation, test, optimisers and checkpoints are written once, here; scoring in
`itm.matcher.scoring`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from itm.batch import Captions, Chunk, Encoded, Images, Pairs
from itm.checkpoints.hub import Shared
from itm.layers.functional import full, full_precision
from itm.layers.text import BertText
from itm.losses.base import Loss as LossProtocol
from itm.losses.base import LossFunction, as_loss
from itm.matcher.explanation import Details, attention_details
from itm.matcher.gradient_cache import encode_in_chunks
from itm.matcher.inputs import check_images
from itm.matcher.scoring import Scoring
from itm.matcher.state import pack_state, saved_arguments, unpack_state
from itm.metrics.collected import RetrievalMetrics
from itm.metrics.ranking import Ranks
from itm.text.vocabulary import Tokens

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule


Loss = LossFunction  # any callable; `Matcher.objective` gives it the form of the protocol
MakeOptimizer = Callable[..., torch.optim.Optimizer]  # parameter groups -> optimiser
MakeScheduler = Callable[..., Any]  # optimiser -> learning-rate scheduler

# Constructor arguments that are objects: never among the saved hyper-parameters, because a
# checkpoint that pickles them can be neither loaded safely nor resumed.
OBJECTS = ["loss", "optimizer", "scheduler"]


class Matcher(Shared, Scoring, pl.LightningModule):
    """Base of all backbones.

    Args:
        loss: what `training_step` minimises, see `itm.losses`; None for inference only.
        optimizer: parameter groups -> optimiser, such as `functools.partial(Adam, lr=2e-4)`.
        scheduler: optimiser -> learning-rate scheduler stepped per epoch, or None.

    Attributes:
        vocab: words or word pieces; filled by the data module, a checkpoint or the user.
        concepts: the concept vocabulary of CVSE, or None.
        labels: the label vocabulary of CASC and of the multi-label loss, or None.
        chunk_size: encode training batches in chunks of so many rows, see
            `itm.matcher.gradient_cache`; None = whole, which needs half the time and most memory.
        ranks: of the queries of the last validation or test, see `itm.metrics.evaluate_queries`.
        data: the data module that `itm.build` made for this matcher; not saved and not copied.
    """

    needs_labels: ClassVar[bool] = False
    needs_concepts: ClassVar[bool] = False
    compiled: ClassVar[tuple[str, ...]] = ("encode_images", "similarity", "training_scores")
    num_regions: int | None = None  # that every image must have; None = any number
    data: "RegionDataModule | None" = None

    def __init__(
        self,
        loss: Loss | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__()
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.vocab: Tokens | None = None
        self.concepts: Any = None
        self.labels: Any = None
        self.chunk_size: int | None = None
        self._images: list[Chunk] = []
        self._captions: list[Chunk] = []
        self.metrics: RetrievalMetrics | None = None
        self.ranks: Ranks | None = None

    # What a backbone defines ------------------------------------------------------------------

    def encode_images(self, images: Images) -> Encoded:
        """Images -> their global vectors and / or region vectors."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_images")

    def encode_captions(self, captions: Captions) -> Encoded:
        """Captions -> their global vectors and / or word vectors."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_captions")

    @full_precision
    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Test score (I, C), larger = better; here the dot product of the global vectors."""
        assert images.vector is not None and captions.vector is not None
        return full(images.vector) @ full(captions.vector).T

    def training_scores(
        self, images: Encoded, captions: Encoded
    ) -> dict[str, tuple[float, Tensor]]:
        """Score levels that the ranking loss acts on: name -> (weight, (I, C)), main first."""
        return {"main": (1.0, self.similarity(images, captions))}

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Losses of the backbone itself beside ranking: name -> scalar, weights included."""
        return {}

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Weights (I, C, R, L) between regions and words."""
        raise NotImplementedError(f"{type(self).__name__} has no region-word attention")

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """What `itm.matcher.explain` tells about the one pair in a batch; here its attention.

        Args:
            pairs: one image and one caption.
            images: the image, encoded in eval mode.
            captions: the caption, encoded in eval mode.

        Raises:
            ValueError: nothing to tell.
        """
        return attention_details(self, images, captions)

    def training_encoders(
        self,
    ) -> tuple[Callable[[Images], Encoded], Callable[[Captions], Encoded]]:
        """How `losses` encodes both sides of a batch; here as in evaluation."""
        return self.encode_images, self.encode_captions

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: "name", "params", and maybe "lr_scale", "clip", "step_size", "gamma".

        `lr_scale` multiplies the optimiser's learning rate; groups with the same `clip` name are
        clipped by their common norm; `step_size` and `gamma` override those of
        `itm.training.optim.StepLR`.
        A pretrained text encoder is a group of its own.
        """
        text = getattr(self, "text", None)
        bert = list(text.bert.parameters()) if isinstance(text, BertText) else []
        known = {id(p) for p in bert}
        groups: list[dict[str, Any]] = [
            {"name": "main", "params": [p for p in self.parameters() if id(p) not in known]}
        ]
        if isinstance(text, BertText):
            groups.append({"name": "bert", "params": bert, "lr_scale": text.lr_scale})
        return groups

    def pair_floats(self, regions: int, words: int) -> int:
        """Float32 values that scoring one image-caption pair needs; sizes evaluation blocks."""
        return 4

    @property
    def ranks_by_vectors(self) -> bool:
        """Whether `similarity` reads the global vectors alone and orders as their dot products."""
        return type(self).similarity is Matcher.similarity

    def set_labels(self, labels: Any) -> None:
        """Take what the backbone computes with a label vocabulary, such as positive weights."""

    def set_concepts(self, concepts: Any) -> None:
        """Take what the backbone computes with a concept vocabulary, such as its graph."""

    @property
    def label_dim(self) -> int | None:
        """Width of the global vectors for a label head; None when the backbone has its own head."""
        return self.hparams["embed_dim"]

    # Training ---------------------------------------------------------------------------------

    def forward(self, images: Images, captions: Captions) -> Tensor:
        """Scores (I, C) of a batch of images with a batch of captions."""
        return self.similarity(self.encode_images(images), self.encode_captions(captions))

    @property
    def objective(self) -> LossProtocol:
        """The loss in the form of `itm.losses.Loss`.

        Raises:
            ValueError: this matcher has no loss.
        """
        if self.loss is None:
            raise ValueError("this matcher has no loss; build or load it with loss=...")
        return as_loss(self.loss)

    def losses(self, pairs: Pairs) -> dict[str, Tensor]:
        """All loss terms of a batch: name -> scalar; "total" is what training minimises.

        Total = sum over score levels of weight x ranking loss, plus what the loss adds on the main
        level, plus the backbone's own losses.
        """
        loss = self.objective
        check_images(pairs.images, self)
        images, captions = self._encode_pairs(pairs)
        terms = self.extra_losses(pairs, images, captions)
        if loss.gather:
            from itm.matcher.gather import gather_batch

            pairs, images, captions = gather_batch(pairs, images, captions)
        levels = self.training_scores(images, captions)
        ranking, encoded = loss.ranked, (images, captions)
        loss.start_batch()
        for name, (weight, scores) in levels.items():
            key = "ranking" if len(levels) == 1 else f"ranking_{name}"
            terms[key] = weight * ranking(scores, pairs, encoded)
        main = next(iter(levels.values()))[1]
        terms |= loss.terms(main, pairs, encoded)
        return terms | {"total": torch.stack([full(term) for term in terms.values()]).sum()}

    def _encode_pairs(self, pairs: Pairs) -> tuple[Encoded, Encoded]:
        if self.chunk_size is None:
            encode_images, encode_captions = self.training_encoders()
            return encode_images(pairs.images), encode_captions(pairs.captions)
        return encode_in_chunks(self, pairs, self.chunk_size)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the methods that `compiled` names; arguments as for `torch.compile`.

        They encode images and score, in many small operations. Captions are left out: their lengths
        are plain numbers, different in every batch, for each of which would be compiled anew,
        around a recurrent network that is one kernel already.
        """
        for name in self.compiled:
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled methods, which in a copy would still be those of the original.

        Nor with the data module, whose features stay on disk.
        """
        state = super().__getstate__()
        left_out = (*self.compiled, "data")
        return {name: value for name, value in state.items() if name not in left_out}

    def training_step(self, batch: Pairs, batch_idx: int) -> dict[str, Any]:
        """One batch: all terms are logged, and returned for callbacks beside the total."""
        terms = self.losses(batch)
        values = {name: value.detach() for name, value in terms.items()}
        size = len(batch.captions.lengths)
        for name, value in values.items():
            key = "loss" if name == "total" else name
            self.log(f"train/{key}", value, batch_size=size, prog_bar=name == "total")
        return {"loss": terms["total"], "terms": values}

    def configure_optimizers(self) -> Any:
        """The optimiser over `parameter_groups`, and the scheduler stepped per epoch."""
        groups = [dict(group) for group in self.parameter_groups()]
        for group in groups:
            group["params"] = [p for p in group["params"] if p.requires_grad]
        groups = [group for group in groups if group["params"]]
        make = self.optimizer or (lambda params: torch.optim.Adam(params, lr=2e-4))
        optimizer = make(groups)
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        if self.scheduler is None:
            return optimizer
        return [optimizer], [{"scheduler": self.scheduler(optimizer), "interval": "epoch"}]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each set of groups with the same "clip" name by its own total L2 norm."""
        if not gradient_clip_val:
            return
        sets: dict[str, list[nn.Parameter]] = {}
        for group in optimizer.param_groups:
            sets.setdefault(group.get("clip", "main"), []).extend(group["params"])
        for parameters in sets.values():
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    # Validation and test ----------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the encodings of the last epoch."""
        self._images, self._captions = [], []

    def validation_step(
        self, batch: Images | Captions, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Encode each image and each caption once; the first loader brings images."""
        if isinstance(batch, Images):
            check_images(batch, self)
            self._images.append((self.encode_images(batch), batch.index.cpu()))
        else:
            self._captions.append((self.encode_captions(batch), batch.index.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Score the whole split and log `val/rsum` and the recalls."""
        self._log_retrieval("val", self.trainer.datamodule.val_split)  # type: ignore[attr-defined]

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Score the test split by the data module's protocol and log `test/...`."""
        self._log_retrieval("test", self.trainer.datamodule.test_split)  # type: ignore[attr-defined]

    def _log_retrieval(self, stage: str, split: Any) -> None:
        """Each process scores its own images with all captions; rows are gathered by index."""
        from itm.matcher.gather import gather_chunks

        captions = gather_chunks(self._captions)
        owner, images = split.caption_image, split.num_images
        self.metrics = RetrievalMetrics(owner, split.protocol, images).to(self.device)
        # A process without an image of its own still takes part in the gathering.
        self.metrics.update(torch.empty(0, len(owner)), torch.empty(0, dtype=torch.long))
        for chunk in self._images:
            rows = torch.arange(len(chunk[1]))
            out = np.empty((len(rows), len(owner)), np.float32)
            scores = self._matrix([(chunk[0], rows)], captions, out)
            self.metrics.update(torch.from_numpy(scores), chunk[1])
        results = self.metrics.compute()
        self.ranks = self.metrics.ranks
        self._images, self._captions = [], []
        self.metrics = None
        self.log_dict({f"{stage}/{name}": float(x) for name, x in results.items()}, sync_dist=False)

    # Checkpoints ------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checkpoints carry the class name and all word lists."""
        checkpoint["itm"] = pack_state(self)
        checkpoint["hyper_parameters"] = saved_arguments(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the word lists over; other ones than this matcher's own are an error."""
        unpack_state(self, checkpoint.get("itm", {}))
