"""`init=`: start training from the weights of another matcher."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

# Arguments that may differ from those of `init=` without changing scores, or that hold many values.
NOT_SCORED = {
    "text", "pos_weight", "dropout", "caption_dropout", "caption_weight", "concept_vectors",
    "level_weights", "kl_weight", "label_weight", "head_lr_scale", "text_lr_scale",
    "weight_penalty",
}  # fmt: skip


def start_from(matcher: Matcher, source: str) -> None:
    """Copy the weights of another matcher of the same shape, vocabulary and labels (`init=`).

    The positive weights of labels are not learned, so they keep the values of the training data. If
    the other matcher was built with other arguments, such as another aggregation, a warning names
    them.

    Args:
        matcher: receives the weights.
        source: path for `itm.load`.

    Raises:
        ValueError: the other matcher has another class or size, other words or labels, or weights
            that are not finite.
    """
    # Late: `itm.train` names this function, and its help must not wait for Lightning.
    from pytorch_lightning.utilities import rank_zero_warn

    from itm.checkpoints.folder import load
    from itm.checkpoints.strict import check_finite, load_strictly
    from itm.matcher.state import pack_state, unpack_state

    own = type(matcher).__module__.startswith("itm.models.")
    other = load(source, model_class=None if own else type(matcher))
    if type(other) is not type(matcher):
        names = type(other).__name__, type(matcher).__name__
        raise ValueError(
            f"init={source} holds {names[0]}, but model= builds {names[1]}: choose the model of "
            f"the weights, or give weights of {names[1]}"
        )
    state = pack_state(other)
    matcher.trained_on = [*other.trained_on]
    if matcher.labels is not None and other.labels is not None:
        there, here = other.labels.words, matcher.labels.words
        if matcher.needs_labels and there != here:
            raise ValueError(
                f"init={source} has {len(there)} labels, the data has {len(here)}, and they differ "
                "or come in another order, so the rows of its label head would mean other labels; "
                "write its list with itm.load(...).labels.save(FILE) and train with "
                "data.labels=FILE"
            )
        del state["labels"]  # keep the data's labels, which are counted in its captions
    unpack_state(matcher, state)
    tensors, own_tensors = other.state_dict(), matcher.state_dict()
    tensors |= {k: own_tensors[k] for k in tensors if k.endswith("pos_weight")}
    built, mine = dict(other.hparams), dict(matcher.hparams)
    differing = sorted(k for k in built.keys() & mine.keys() - NOT_SCORED if built[k] != mine[k])
    overrides = " ".join(f"model.{name}={built[name]}" for name in differing)
    check_finite(tensors, source)
    try:
        load_strictly(matcher, tensors, source)
    except ValueError as error:
        raise ValueError(f"{error}\ninit={source} was built with {overrides}") from error
    if differing:
        rank_zero_warn(
            f"init={source} was built with {overrides}; these differ in this run, so scores will "
            "change"
        )
