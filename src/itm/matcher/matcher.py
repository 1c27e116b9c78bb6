"""`Matcher`: the LightningModule that every backbone extends.

A backbone defines `encode_images`, `encode_captions` and, if it needs to, `similarity`,
`training_scores`, `extra_losses`, `attention`, `details`, `parameter_groups` and `pair_floats`.
Everything else is shared: training is defined here, and the other modules of this package hold
functions that become methods of `Matcher`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from itm.batch import Captions, Chunk, Encoded, Images, Pairs
from itm.layers.functional import full, full_precision
from itm.layers.text import as_text_encoder
from itm.losses.base import Loss, LossFunction, as_loss
from itm.matcher import attachment, hub, loss_terms, optimisation, scoring, state, validation
from itm.matcher.compilation import CompiledMethods
from itm.matcher.epoch_loss import EpochLoss
from itm.matcher.explanation import Details, attention_details
from itm.matcher.inputs import check_images
from itm.matcher.optimisation import MakeOptimizer, MakeScheduler
from itm.matcher.waiting import OBJECTS as OBJECTS
from itm.matcher.waiting import Pending, may_wait
from itm.metrics.ranking import Ranks
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.vocabulary import Tokens

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule


class Matcher(hub.Pretrained, CompiledMethods):  # type: ignore[misc]  # takes any option
    """Base class of all backbones.

    Args:
        loss: loss that `training_step` minimises, see `itm.losses`; None for inference only.
        optimizer: parameter groups -> optimiser, such as `functools.partial(Adam, lr=2e-4)`.
        scheduler: optimiser -> learning-rate scheduler, or an `itm.training.optim.Schedule`, which
            also says when it steps, or None.

    Attributes:
        needs_labels: trains with `Captions.labels`.
        needs_concepts: trains with `Captions.concepts`.
        compiled: names of the methods that `compile` compiles: image encoding and scoring, which
            consist of many small operations. `encode_captions` is left out: caption lengths are
            Python ints, each new length would trigger a recompilation, and a GRU is a single kernel
            anyway.
        num_regions: number of regions that every image must have; None = any number.
        needs_regions: whether an image must be a set of regions, (I, R, F); else it may also be one
            vector, (I, F).
        text: the text encoder; any module, but only a `TextEncoder` defines its own parameter
            groups, saved arguments and the like.
        vocab: words or word pieces; set by the data module, a checkpoint or the user.
        concepts: the concept vocabulary of CVSE, or None.
        labels: the label vocabulary of CASC and of the multi-label loss, or None.
        trained_on: what the matcher was trained on, once per training, see `itm.data.origin`.
        pending: the constructor's arguments while the matcher waits for its sizes, else None.
        found_lr: learning rate that replaces the optimiser's, see `lr`; None = the optimiser's.
        chunk_size: encode training batches in chunks of this many rows, see
            `itm.matcher.gradient_cache`; None = whole batches, which takes half the time and more
            memory.
        memory_budget: bytes that one block of scores may need; None = chosen for the device.
        record: results, command and versions of the run that trained the matcher, {} if unknown.
            `itm.load` reads it from the results.json of a run or of a saved folder.
        recorded: sample of the weights that `record` describes (`weight_sample`), None = any.
        ranks: ranks of the queries of the last validation or test, see
            `itm.metrics.evaluate_queries`.
        data: the data module that `itm.build` made for this matcher; neither saved nor copied.
        last_batch: epoch, number and identity of the batch that was trained on last.
        evaluates_again: whether the optimiser evaluates a batch once more in the same step.
        encoded_images, encoded_captions: encodings of the running validation or test so far.
    """

    needs_labels: ClassVar[bool] = False
    needs_concepts: ClassVar[bool] = False
    compiled: ClassVar[tuple[str, ...]] = ("encode_images", "similarity", "training_scores")
    num_regions: int | None = None
    needs_regions: bool = False
    data: "RegionDataModule | None" = None

    def __init__(
        self,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ):
        super().__init__()
        self.pending: Pending | None = None
        self.found_lr: float | None = None
        self.loss = loss
        if loss is not None:
            as_loss(loss)  # a wrong one fails here, not in the first batch
        self.optimizer = optimisation.check_maker("optimizer", optimizer, optimisation.OPTIMIZER)
        self.scheduler = optimisation.check_maker("scheduler", scheduler, optimisation.SCHEDULER)
        self.text: Any = None
        self.vocab: Tokens | None = None
        self.concepts: Concepts | None = None
        self.labels: Labels | None = None
        self.trained_on: list[dict[str, Any]] = []
        self.chunk_size: int | None = None
        self.memory_budget: int | None = None
        self.epoch_loss = EpochLoss()
        self.last_batch: tuple[int, int, int] | None = None
        self.evaluates_again = False
        self.record: dict[str, Any] = {}
        self.recorded: Tensor | None = None
        self.ranks: Ranks | None = None
        self.encoded_images: list[Chunk] = []
        self.encoded_captions: list[Chunk] = []

    def __init_subclass__(cls, **options: Any) -> None:
        """Let the constructor of a backbone wait for its sizes, see `itm.matcher.waiting`.

        A subclass that defines `similarity` but not `ranks_by_vectors` gets False for the latter:
        its scores need not be products of vectors.
        """
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = may_wait(cls.__init__)  # type: ignore[method-assign]
        if "similarity" in vars(cls) and "ranks_by_vectors" not in vars(cls):
            cls.ranks_by_vectors = property(lambda _: False)  # type: ignore[assignment]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a loss may be a module or any other callable at any time."""
        if name == "loss":
            vars(self).pop(name, None)
            self._modules.pop(name, None)
        super().__setattr__(name, value)

    # What a backbone defines ------------------------------------------------------------------

    def encode_images(self, images: Images) -> Encoded:
        """Encode images as global vectors (I, D) and / or region vectors (I, R, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_images")

    def encode_captions(self, captions: Captions) -> Encoded:
        """Encode captions as global vectors (C, D) and / or word vectors (C, L, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define encode_captions")

    @full_precision  # half precision would merge neighbouring scores into ties
    def similarity(self, images: Encoded, captions: Encoded) -> Tensor:
        """Score pairs for testing, (I, C), larger = better; by default the global dot product.

        Raises:
            TypeError: the encoders return no global vectors, for which a class must define its own
                similarity.
        """
        if images.vector is None or captions.vector is None:
            raise TypeError(
                f"{type(self).__name__} has no global vectors to multiply: return "
                "Encoded(vector=...) from both encoders, or define similarity(images, captions)"
            )
        return full(images.vector) @ full(captions.vector).T

    def training_scores(
        self, images: Encoded, captions: Encoded
    ) -> dict[str, tuple[float, Tensor]]:
        """Return the score levels for the ranking loss: name -> (weight, (I, C)), main first."""
        return {"main": (1.0, self.similarity(images, captions))}

    def extra_losses(self, pairs: Pairs, images: Encoded, captions: Encoded) -> dict[str, Tensor]:
        """Compute the backbone's own losses besides ranking: name -> weighted scalar.

        For a gathering loss, pass a mean over captions through `itm.matcher.gather.mean_of_all`,
        and multiply a sum by the number of processes: DDP averages the gradients of processes.
        """
        return {}

    def attention(self, images: Encoded, captions: Encoded) -> Tensor:
        """Return the weights (I, C, R, L) between regions and words."""
        raise NotImplementedError(f"{type(self).__name__} has no region-word attention")

    def details(self, pairs: Pairs, images: Encoded, captions: Encoded) -> Details:
        """Return what `itm.matcher.explain` shows for the only pair in a batch.

        By default this is the attention.

        Args:
            pairs: one image and one caption.
            images: the image, encoded in eval mode.
            captions: the caption, encoded in eval mode.

        Raises:
            ValueError: the matcher has nothing to show.
        """
        return attention_details(self, images, captions)

    def uncertainty(self, encoded: Encoded) -> Tensor:
        """Return how uncertain each encoding is, (N,).

        Raises:
            ValueError: the matcher is not probabilistic.
        """
        raise ValueError(
            f"{type(self).__name__} encodes an item as a point, without an uncertainty; train a "
            "probabilistic matcher: model=vse_infty model.probabilistic=true loss=pcmepp"
        )

    def training_encoders(
        self,
    ) -> tuple[Callable[[Images], Encoded], Callable[[Captions], Encoded]]:
        """Return the functions that encode both sides in training; by default as in evaluation."""
        return self.encode_images, self.encode_captions

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser groups: "main" and, by default, those of the text encoder.

        A group has "name" and "params", and optionally "lr_scale", "clip", "step_size", "gamma".
        `lr_scale` multiplies the optimiser's learning rate; groups with the same `clip` name are
        clipped by their common norm; `step_size`, in epochs, and `gamma`
        override those of `itm.training.optim.StepLR`.
        """
        own = as_text_encoder(self.text).parameter_groups()
        known = {id(p) for group in own for p in group["params"]}
        rest = [p for p in self.parameters() if id(p) not in known]
        return [{"name": "main", "params": rest}, *own]

    def pair_floats(self, regions: int, words: int) -> int:
        """Estimate the float32 values needed to score one pair; it sets the size of blocks."""
        return 4

    @property
    def ranks_by_vectors(self) -> bool:
        """Tell whether the dot products of the global vectors rank all pairs as `similarity` does.

        If so, `itm.index.Index` searches by these vectors alone. It is False for a backbone that
        defines its own `similarity`, unless the same class overrides this.
        """
        return True

    @classmethod
    def lacks_sizes(cls, arguments: Mapping[str, Any]) -> bool:
        """Tell whether the arguments lack a size, so that the matcher waits for data."""
        return arguments.get("vocab_size") is None

    def set_labels(self, labels: Any) -> None:
        """Take what the backbone needs from a label vocabulary, such as positive weights."""

    def set_concepts(self, concepts: Any) -> None:
        """Take what the backbone needs from a concept vocabulary, such as its graph."""

    @property
    def label_dim(self) -> int | None:
        """Return the width of the vectors for a label head; None if the backbone has its own.

        Raises:
            ValueError: the backbone has no option `embed_dim` and does not override this.
        """
        if "embed_dim" not in self.hparams:
            raise ValueError(
                f"this loss predicts labels from the global vectors, but {type(self).__name__} "
                "does not say how wide they are: define the property label_dim"
            )
        return self.hparams["embed_dim"]

    # Plain data -------------------------------------------------------------------------------

    pairs = scoring.pairs
    score = scoring.score
    embed = scoring.embed
    encode = scoring.encode
    score_encoded = scoring.score_encoded

    save_pretrained = hub.save_pretrained
    push_to_hub = hub.push_to_hub

    # Data -------------------------------------------------------------------------------------

    data_needs = attachment.data_needs
    take_data = attachment.take_data
    setup = attachment.setup

    def bfloat16(self) -> "Matcher":
        """Convert the weights; `dtype`, which Lightning keeps, would miss torch's own method."""
        return self.to(torch.bfloat16)

    def wait(self, arguments: dict[str, Any]) -> None:
        """Keep the constructor's arguments until `take_data` brings the missing sizes."""
        Matcher.__init__(self, *(arguments.get(name) for name in OBJECTS))
        assert not self.hparams  # Lightning makes the empty table when it is first read
        self.pending = Pending(arguments, dict(vars(self)))

    # Training ---------------------------------------------------------------------------------

    def forward(self, images: Images, captions: Captions) -> Tensor:
        """Score a batch of images with a batch of captions, (I, C).

        Raises:
            ValueError: the images do not fit the matcher.
        """
        check_images(images, self)
        return self.similarity(self.encode_images(images), self.encode_captions(captions))

    @property
    def objective(self) -> Loss:
        """Return the loss as an `itm.losses.Loss`.

        Raises:
            ValueError: this matcher has no loss.
        """
        if self.loss is None:
            raise ValueError(f"this matcher has no loss: {type(self).__name__}(loss=Triplet())")
        return as_loss(self.loss)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the data module, too: its features stay on disk."""
        return {name: x for name, x in super().__getstate__().items() if name != "data"}

    def check_batch(self, pairs: Pairs) -> None:
        """Let the loss check a training batch on the host, where no check waits for a device.

        `itm.data.RegionDataModule` calls this before it sends a batch.
        """
        if self.loss is not None:
            self.objective.check_batch(pairs)

    losses = loss_terms.losses
    training_step = loss_terms.training_step

    @property
    def lr(self) -> float:
        """Return the rate of the main parameters; Lightning's learning-rate finder sets it."""
        return optimisation.learning_rate(self)

    @lr.setter
    def lr(self, value: float) -> None:
        if not 0 <= value < float("inf"):
            raise ValueError(f"a learning rate must be at least 0 and finite, got {value}")
        self.found_lr = float(value)

    configure_optimizers = optimisation.configure_optimizers
    configure_gradient_clipping = optimisation.configure_gradient_clipping

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then the schedules that watch the loss of steps."""
        super().optimizer_step(*args, **kwargs)
        optimisation.step_plateaus(self, "step")

    def on_train_epoch_start(self) -> None:
        """Begin the mean of the loss; an epoch that is resumed continues it."""
        self.epoch_loss.reset()
        self.last_batch = None

    def on_train_epoch_end(self) -> None:
        """Set `train/loss` to its mean, for what watches it, and step such schedules."""
        if self.epoch_loss.mean is not None:
            self.log("train/loss", self.epoch_loss.mean, logger=False, sync_dist=True)
        optimisation.step_plateaus(self, "epoch")

    # Validation and test ----------------------------------------------------------------------

    on_validation_epoch_start = on_test_epoch_start = validation.on_epoch_start
    validation_step = test_step = validation.step
    on_test_epoch_end = validation.on_test_epoch_end

    def on_validation_epoch_end(self) -> None:
        """Score the whole split, log `val/rsum` and the recalls, and step what watches them."""
        validation.on_validation_epoch_end(self)
        optimisation.step_plateaus(self, "validation")

    # Checkpoints ------------------------------------------------------------------------------

    on_save_checkpoint = state.on_save_checkpoint
    on_load_checkpoint = state.on_load_checkpoint
