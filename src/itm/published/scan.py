"""SCAN (github.com/kuanghuei/SCAN): two state dicts, image encoder and text encoder."""

from __future__ import annotations

from typing import Any

from itm.layers.text import GRUText
from itm.published.tables import Options, State, Table, gru_arguments, read_state, write_state

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


def read(states: list[State], options: Options) -> tuple[Options, State] | None:
    """Arguments and tensors of an original checkpoint, or None if it is not SCAN's.

    The weights tell nothing about direction and aggregation: they are read from the options, and
    are the defaults of the original's command line where no options were saved.
    """
    if len(states) != 2 or not has_encoders(states):
        return None
    # VSE++ has the same tensors, an option of its own, and none of those of the attention.
    if "measure" in options and "cross_attn" not in options:
        return None
    if options.get("cross_attn") == "all":
        raise ValueError("weights of CASC (cross_attn=all) without the third part, its label head")
    arguments, tensors = read_encoders(states, options)
    own = {ours: options.get(theirs, default) for theirs, (ours, default) in OPTIONS.items()}
    return {**arguments, **own}, tensors


def write(matcher: Any) -> tuple[list[State], Options]:
    """State dicts and options of the original.

    Raises:
        ValueError: a text encoder that the original code does not have.
    """
    own = {theirs: matcher.hparams[ours] for theirs, (ours, _) in OPTIONS.items()}
    states, options = write_encoders(matcher)
    return states, {**own, **options}


# The two encoders, which CASC has as well ---------------------------------------------------------


def has_encoders(states: list[State]) -> bool:
    """The first two state dicts are a region projection and a GRU."""
    image, text = states[:2]
    return (
        any(name.startswith("fc.") for name in image)
        # VSRN and VSE-infinity
        and not any(name.startswith(("Rs_GCN_", "img_rnn.", "gpool.")) for name in image)
        and any(name.startswith("rnn.") for name in text)
    )


def read_encoders(states: list[State], options: Options) -> tuple[Options, State]:
    """Arguments and tensors of the two encoders."""
    image, text = states[:2]
    weight_norm = "fc.weight_g" in image
    embed_dim, img_dim = image["fc.weight_v" if weight_norm else "fc.weight"].shape
    arguments = {
        "img_dim": img_dim,
        "embed_dim": embed_dim,
        **gru_arguments(text),
        "weight_norm": weight_norm,
        "normalize_images": not options.get("no_imgnorm", False),
        "normalize_words": not options.get("no_txtnorm", False),
    }
    tensors = read_state(image, IMAGE) | read_state(text, TEXT)
    if weight_norm:  # old versions of PyTorch stored the gain with shape (1,)
        gain = str(IMAGE["fc.weight_g"])
        tensors[gain] = tensors[gain].reshape(())
    return arguments, tensors


def write_encoders(matcher: Any) -> tuple[list[State], Options]:
    """State dicts and options of the two encoders.

    Raises:
        ValueError: a text encoder that the original code does not have.
    """
    if not isinstance(matcher.text, GRUText):
        raise ValueError(
            "the original code encodes text with a GRU; this matcher has "
            f"{type(matcher.text).__name__}"
        )
    own, h = matcher.state_dict(), matcher.hparams
    options = {
        "vocab_size": h["vocab_size"],
        "img_dim": h["img_dim"],
        "word_dim": h["word_dim"],
        "embed_size": h["embed_dim"],
        "num_layers": h["num_layers"],
        "bi_gru": h["bidirectional"],
        "precomp_enc_type": "weight_norm" if h["weight_norm"] else "basic",
        "no_imgnorm": not h["normalize_images"],
        "no_txtnorm": not h["normalize_words"],
    }
    return [write_state(own, IMAGE), write_state(own, TEXT)], options
