"""Connect a matcher with the data module of its trainer.

`itm.data.needs` describes both sides; `itm.app` builds matchers from configurations by the same
functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn

from itm.data.fingerprint import differences
from itm.data.module import RegionDataModule
from itm.data.needs import DataNeeds, same_words
from itm.data.origin import warn_trained
from itm.layers.text import as_text_encoder
from itm.losses.base import Loss, as_loss
from itm.matcher.inputs import check_split
from itm.matcher.waiting import build, check_built
from itm.text.vocabulary import BertVocabulary, Tokens
from itm.training.lightning_private import attached_trainer
from itm.training.monitors import check_monitor
from itm.utils.log_files import say

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

# Each process holds a part of the weights or of the gradients.
SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
SPLITS = {"fit": "train", "validate": "val", "test": "test", "predict": "test"}
LISTS = {"vocab": "vocabulary", "labels": "label_vocabulary", "concepts": "concept_vocabulary"}


def data_needs(matcher: Matcher, stage: str | None) -> DataNeeds:
    """Return what a matcher and its loss read in a stage of the trainer."""
    loss = None if matcher.loss is None else as_loss(matcher.loss)
    learns = stage in (None, "fit")
    needed = {
        "concepts": matcher.needs_concepts,
        "labels": matcher.needs_labels or (loss is not None and loss.needs_labels and learns),
        "relevance": loss is not None and loss.needs_relevance and learns,
    }
    if matcher.pending is None and not learns:
        needed["labels"] = False  # a built matcher reads them in training only
    text = _text_options(matcher)
    return DataNeeds(
        frozenset(name for name, is_needed in needed.items() if is_needed),
        1 if loss is None or matcher.data is not None else loss.sentences,  # `itm.build` chose
        text.get("name") == "vectors" or as_text_encoder(matcher.text).needs_vectors,
        _own_vocabulary(matcher),
        matcher.labels,
        matcher.concepts,
    )


def take_data(matcher: Matcher, data: RegionDataModule, stage: str | None) -> None:
    """Take word lists and missing sizes from a data module that is set up.

    The loss takes its labels and its relevance, too. A training adds its origin.

    Args:
        matcher: the matcher; what it already has stays.
        data: the data module.
        stage: stage of the trainer.

    Raises:
        ValueError: the matcher's sizes or words are not those of the data, or it has no loss to
            train with.
    """
    own = {**vars(matcher), "vocab": _own_vocabulary(matcher)}
    for name, there in LISTS.items():
        mine, given = own[name], getattr(data, there)
        if mine is not None and given is not None and not same_words(mine, given):
            raise ValueError(
                f"data.{name} holds {len(given)} words, but the matcher has {len(mine)} of its "
                f"own, which its weights were trained with: leave data.{name} out"
            )
    split = SPLITS.get(stage or "fit", "train")
    sizes = data_sizes(data, split)
    if matcher.pending is not None:
        _check(matcher, matcher.pending.arguments, sizes)
        build(matcher, sizes)
    elif matcher.vocab is None:  # else it was built for other data, or by `itm.app`
        _check(matcher, matcher.hparams, sizes)
    check_split(data.split(split), matcher)
    if stage in ("validate", "test", "predict"):
        for line in warn_trained(matcher.trained_on, data.split(split)):
            say(line)
    if matcher.vocab is None:
        matcher.vocab = data.vocabulary
    if matcher.labels is None and data.label_vocabulary is not None:
        matcher.labels = data.label_vocabulary
        matcher.set_labels(matcher.labels)
    if matcher.concepts is None and data.concept_vocabulary is not None:
        matcher.concepts = data.concept_vocabulary
        matcher.set_concepts(matcher.concepts)
    if stage == "fit":
        check_region_drop(matcher, data)
        loss = matcher.objective
        if loss.needs_labels:
            loss.set_dim(matcher.label_dim)
        prepare_loss(loss, data)
        origin = data.origin()
        if origin is not None and origin not in matcher.trained_on:
            matcher.trained_on.append(origin)


def check_region_drop(matcher: Matcher, data: RegionDataModule) -> None:
    """Check that the matcher can train on images with fewer regions, if the data leave some out.

    Raises:
        ValueError: the matcher needs the same number of regions in every image.
    """
    if data.region_drop and data.split("train").regions == 1:  # the option may be a recipe's
        say(f"data.region_drop={data.region_drop} has no effect: each image has one vector only")
    if data.region_drop and matcher.num_regions:
        raise ValueError(
            f"data.region_drop={data.region_drop} leaves out regions, but {type(matcher).__name__} "
            f"has a batch norm over {matcher.num_regions} regions: set data.region_drop=0"
        )


def setup(matcher: Matcher, stage: str) -> None:
    """Check that the matcher is built, and that it can compute with the trainer's options.

    Lightning trains in the mode that it finds. A loaded matcher is in eval mode, without dropout,
    so a matcher that is in eval mode as a whole is set to training mode.

    Raises:
        ValueError: the matcher waits for sizes, but the trainer has no data module with them; or
            the trainer keeps all weights in 16 bits, divides them among processes, predicts, or
            has a callback that would keep or wait for the worst epoch.
    """
    if stage == "predict" and type(matcher).predict_step is LightningModule.predict_step:
        raise ValueError(
            "a matcher has no predictions of single batches: matcher.score(features, captions) "
            "scores images with captions, matcher.embed(features) returns vectors, and "
            "trainer.test ranks a split"
        )
    if stage == "fit":
        for callback in matcher.trainer.callbacks:  # type: ignore[attr-defined]
            check_monitor(callback)
    precision = str(matcher.trainer.precision)
    if precision in ("bf16-true", "16-true"):
        raise ValueError(
            f"precision={precision} keeps weights, norms and losses in 16 bits, but matchers "
            "compute norms, softmax and losses in float32: use "
            f"precision={precision.replace('true', 'mixed')}"
        )
    strategy = matcher.trainer.strategy
    if isinstance(strategy, SHARDED):
        raise ValueError(
            f"strategy={type(strategy).__name__} divides a model among processes, but matchers "
            "clip gradients by their whole norm and keep whole checkpoints, and are small enough "
            'for one GPU: use strategy="ddp"'
        )
    check_built(matcher)
    if stage == "fit" and not matcher.training:
        matcher.train()


def record_data(matcher: Matcher, checkpoint: dict[str, Any]) -> None:
    """Add the fingerprint of the training data to a checkpoint of a run."""
    data = _training_data(matcher)
    if data is not None:
        checkpoint["data"] = data.fingerprint()


def compare_data(matcher: Matcher, checkpoint: dict[str, Any]) -> None:
    """Compare the data of a checkpoint with the data that training would continue on.

    Raises:
        ValueError: training data, word lists or validation data have changed. The best score, early
            stopping and a plateau schedule compare with earlier validations.
    """
    data = _training_data(matcher)
    if data is None or "data" not in checkpoint:  # not training, or written by an older version
        return
    changed = differences(checkpoint["data"], data.fingerprint())
    if changed:
        raise ValueError(
            f"the data have changed since the checkpoint was written ({'; '.join(changed)}): "
            "resume with the data of the run, or start another run from its weights "
            "(init=RUN_FOLDER)"
        )


def _training_data(matcher: Matcher) -> RegionDataModule | None:
    """Return the data module of a running training, if it is one of this library."""
    trainer = attached_trainer(matcher)
    data = getattr(trainer, "datamodule", None)
    is_training = trainer is not None and trainer.state.fn == TrainerFn.FITTING
    return data if is_training and isinstance(data, RegionDataModule) else None


def data_sizes(data: RegionDataModule, stage: str) -> dict[str, Any]:
    """Return the sizes that the data determine, by argument name of matchers and losses."""
    split = data.split(stage)
    assert data.vocabulary is not None
    sizes: dict[str, Any] = {
        "vocab_size": len(data.vocabulary),
        "img_dim": split.width,
        "num_regions": split.regions,
    }
    if data.label_vocabulary is not None:
        sizes["num_labels"] = len(data.label_vocabulary)
    if data.concept_vocabulary is not None:
        sizes["num_concepts"] = len(data.concept_vocabulary)
    if data.vectors:
        sizes["sentence_dim"] = split.sentence_width()
    return sizes


def prepare_loss(loss: Loss, data: RegionDataModule) -> None:
    """Hand a loss the labels of the data, and for gathered batches their relevance."""
    if data.label_vocabulary is not None:
        loss.set_labels(data.label_vocabulary)
    if loss.gather and "relevance" in data.needs:
        # A batch has the relevance of its own pairs only; that of gathered pairs is looked up.
        loss.set_relevance(data.reader("train").relevance)


def _own_vocabulary(matcher: Matcher) -> Tokens | None:
    """Return the vocabulary that a matcher has, or that its transformer prescribes."""
    text = _text_options(matcher)
    if matcher.vocab is not None or text.get("name") != "bert" or not text.get("path"):
        return matcher.vocab
    return BertVocabulary.from_pretrained(text["path"])


def _text_options(matcher: Matcher) -> dict[str, Any]:
    pending = matcher.pending
    return (matcher.hparams if pending is None else pending.arguments).get("text") or {}


def _check(matcher: Matcher, given: Any, sizes: dict[str, Any]) -> None:
    """Compare given sizes with the sizes of the data."""
    for name, size in sizes.items():
        mine = given.get(name)
        if name == "num_regions" and matcher.pending is None:
            mine = matcher.num_regions  # None where the number does not matter
        if mine is not None and size is not None and mine != size:
            raise ValueError(
                f"{type(matcher).__name__} was made with {name}={mine}, but the data have {size}: "
                f"leave {name} out, or use the data and the word lists that this size belongs to"
            )
