"""CHAN (github.com/ppanzx/CHAN): state dicts of image and text, and two empty ones."""

from __future__ import annotations

from typing import Any

import torch

from itm.layers.text import BertText
from itm.published.tables import (
    SIZES,
    Known,
    Options,
    State,
    Table,
    check_stated,
    read_state,
    stated,
    two_way_gru,
    write_state,
)
from itm.published.transformer import BERT, bert_arguments, positions
from itm.utils.checks import check_choice

IMAGE: Table = {
    "fc": "image",
    "feedforward.ln": "block.norm",
    "feedforward.attn.in_proj_weight": "block.project_in.weight",
    "feedforward.attn.in_proj_bias": "block.project_in.bias",
    "feedforward.attn.out_proj": "block.project_out",
}
GRU: Table = {"fc": None, "embed": "text.embed", "rnn": "text.rnn"}  # the linear map is never used

CODINGS = {"VHACoding": "VHA", "THACoding": "THA", "VSACoding": "VSA"}
POOLINGS = {
    "LSEPooling": "LogSumExp",
    "MeanPooling": "Mean",
    "MaxPooling": "Max",
    "SumPooling": "Sum",
    "SoftmaxPooling": "Softmax",
}

# What only the options tell.
OPTIONS = ("coding_type", "pooling_type", "alpha", "belta", "no_imgnorm", "no_txtnorm")

# Further options of the original's command line that its model or evaluation reads.
SETTINGS = {
    "criterion": "ContrastiveLoss",
    "drop": True,
    "embedding_warmup_epochs": 2,
    "input_scale_factor": 1,
    "learning_rate": 5e-4,
    "num_epochs": 25,
    "obj_drop_rate": 0.2,
    "optim": "adam",
    "reset_start_epoch": False,
    "seed": 2022,
    "temperature": 0.01,
    "vse_mean_warmup_epochs": 1,
    "wemb_type": None,
    "word2idx": None,
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not CHAN's.

    Coding, pooling and norms cannot be told from the weights: they are read from the options.

    Raises:
        KeyError: options are missing, see `OPTIONS`.
        ValueError: the form of the image encoder or an option is not supported.
    """
    matched = len(states) == 4 and not states[2] and not states[3]
    if not matched and not (len(states) == 2 and "coding_type" in options):
        return None
    image, text = states[:2]
    if "fc.weight" not in image:
        return None
    if any(name.startswith(("feedforward.ln_1.", "feedforward.mlp.")) for name in image):
        raise ValueError(
            "weights of CHAN with precomp_enc_type=transformer, whose images attend to each other, "
            "are not supported; expected basic or selfattention"
        )
    options.require(*OPTIONS)
    embed_dim, img_dim = image["fc.weight"].shape
    bert = any(name.startswith("bert.") for name in text)
    arguments = {
        "img_dim": img_dim,
        "embed_dim": embed_dim,
        **(bert_arguments(text) if bert else two_way_gru(text, "CHAN")),
        "self_attention": any(name.startswith("feedforward.") for name in image),
        "attend_padding": options.get("attend_padding", False),  # our addition to the format
        "coding": _known("coding_type", options, CODINGS),
        "pooling": _known("pooling_type", options, POOLINGS),
        "alpha": options.need("alpha", 0.1),
        "beta": options.need("belta", 0.1),
        "normalize_images": not options.need("no_imgnorm"),
        "normalize_words": not options.need("no_txtnorm"),
    }
    form = "selfattention" if arguments["self_attention"] else "basic"
    check_stated(options, "precomp_enc_type", form)
    check_stated(options, "text_enc_type", "bert" if bert else "bigru")
    return arguments, read_state(image, IMAGE) | read_state(text, BERT if bert else GRU)


def _known(option: str, options: Options, names: dict[str, str]) -> str:
    """Translate the value of an option."""
    check_choice(option, options[option], tuple(names))
    return names[options[option]]


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original.

    Raises:
        ValueError: the original code does not have this form.
    """
    own, h = matcher.state_dict(), matcher.hparams
    if h["pooling"] == "Softmax" or h["scale_lse"]:
        raise ValueError(
            "the original CHAN has no scale_lse=true, and its SoftmaxPooling gives NaN for padding"
        )
    bert = isinstance(matcher.text, BertText)
    text = write_state(own, BERT if bert else GRU)
    if bert:
        text |= positions(text)
    else:
        width = h["embed_dim"]
        text = {"fc.weight": torch.zeros(width, width), "fc.bias": torch.zeros(width), **text}
    options = {
        "text_enc_type": "bert" if bert else "bigru",
        "precomp_enc_type": "selfattention" if h["self_attention"] else "basic",
        "attend_padding": h["attend_padding"],
        "coding_type": {ours: theirs for theirs, ours in CODINGS.items()}[h["coding"]],
        "pooling_type": {ours: theirs for theirs, ours in POOLINGS.items()}[h["pooling"]],
        "alpha": h["alpha"],
        "belta": h["beta"],
        **stated(h, SIZES),
        "no_imgnorm": not h["normalize_images"],
        "no_txtnorm": not h["normalize_words"],
    }
    return [write_state(own, IMAGE), text, {}, {}], {**SETTINGS, **options}
