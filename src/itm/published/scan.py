"""SCAN (github.com/kuanghuei/SCAN): two state dicts, for image encoder and text encoder."""

from __future__ import annotations

from typing import Any

from itm.layers.text import GRUText
from itm.published.tables import (
    SIZES,
    Known,
    Options,
    State,
    Table,
    check_stated,
    gru_arguments,
    read_state,
    stated,
    write_state,
)

IMAGE: Table = {
    "fc.weight_g": "image.parametrizations.weight.original0",
    "fc.weight_v": "image.parametrizations.weight.original1",
    "fc": "image",
}
TEXT: Table = {"embed": "text.embed", "rnn": "text.rnn"}

# Original option -> our argument and the original's default.
OPTIONS: dict[str, tuple[str, Any]] = {
    "cross_attn": ("direction", "t2i"),
    "raw_feature_norm": ("raw_norm", "clipped_l2norm"),
    "lambda_softmax": ("temperature", 9.0),
    "agg_func": ("aggregation", "LogSumExp"),
    "lambda_lse": ("lambda_lse", 6.0),
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not SCAN's.

    Direction and aggregation cannot be told from the weights: they are read from the options.
    Missing ones are assumed to have the defaults of the original's command line.

    Raises:
        ValueError: the weights are a part of CASC's, or an option contradicts them.
    """
    if len(states) != 2 or not has_encoders(states):
        return None
    # VSE++ has the same tensors; its options have "measure" and none of the attention's.
    if "measure" in options and "cross_attn" not in options:
        return None
    if options.get("cross_attn") == "all":
        raise ValueError(
            "CASC weights (cross_attn=all) lack their third state dict, the label head"
        )
    arguments, tensors = read_encoders(states, options)
    own = {ours: options.assume(theirs, default) for theirs, (ours, default) in OPTIONS.items()}
    return {**arguments, **own}, tensors


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original.

    Raises:
        ValueError: the original code does not have this text encoder.
    """
    own = {theirs: matcher.hparams[ours] for theirs, (ours, _) in OPTIONS.items()}
    states, options = write_encoders(matcher)
    return states, {**own, **options}


# The two encoders, which CASC shares --------------------------------------------------------------


def has_encoders(states: list[State]) -> bool:
    """Tell whether the first two state dicts are a region projection and a GRU."""
    image, text = states[:2]
    return (
        any(name.startswith("fc.") for name in image)
        # VSRN and VSE-infinity
        and not any(name.startswith(("Rs_GCN_", "img_rnn.", "gpool.")) for name in image)
        and any(name.startswith("rnn.") for name in text)
    )


def read_encoders(states: list[State], options: Known) -> tuple[Options, State]:
    """Read arguments and tensors of the two encoders.

    Raises:
        ValueError: an option has another type, or contradicts the tensors.
    """
    image, text = states[:2]
    weight_norm = "fc.weight_g" in image
    form = "weight_norm" if weight_norm else "basic"
    check_stated(options, "precomp_enc_type", form)
    embed_dim, img_dim = image["fc.weight_v" if weight_norm else "fc.weight"].shape
    arguments = {
        "img_dim": img_dim,
        "embed_dim": embed_dim,
        **gru_arguments(text),
        "weight_norm": weight_norm,
        "normalize_images": not options.assume("no_imgnorm", False),
        "normalize_words": not options.assume("no_txtnorm", False),
    }
    tensors = read_state(image, IMAGE) | read_state(text, TEXT)
    if weight_norm:  # old versions of PyTorch stored the gain with shape (1,)
        gain = str(IMAGE["fc.weight_g"])
        tensors[gain] = tensors[gain].reshape(())
    return arguments, tensors


def write_encoders(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the two encoders.

    Raises:
        ValueError: the original code does not have this text encoder.
    """
    if not isinstance(matcher.text, GRUText):
        raise ValueError(
            "the original code encodes text with a GRU; this matcher has "
            f"{type(matcher.text).__name__}"
        )
    own, h = matcher.state_dict(), matcher.hparams
    options = {
        **stated(h, SIZES),
        "bi_gru": h["bidirectional"],
        "precomp_enc_type": "weight_norm" if h["weight_norm"] else "basic",
        "no_imgnorm": not h["normalize_images"],
        "no_txtnorm": not h["normalize_words"],
    }
    return [write_state(own, IMAGE), write_state(own, TEXT)], options
