"""VSE-infinity (github.com/woodfrog/vse_infty), region features: image encoder and text encoder."""

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
from itm.published.transformer import BERT, bert_arguments

IMAGE: Table = {
    "fc": "image.linear",
    "mlp.layers.0": "image.first",
    "mlp.layers.1": "image.second",
    "mlp.bns.0": "image.norm",
    "mlp.bns.1": None,  # a second batch norm is saved and never used
    "gpool.gru": "image_pool.gru",
    "gpool.linear": "image_pool.score",
}
POOL: Table = {"gpool.gru": "text_pool.gru", "gpool.linear": "text_pool.score"}
GRU: Table = {"embed": "text.embed", "rnn": "text.rnn", **POOL}
TRANSFORMER: Table = {**BERT, **POOL}

# Further options of the original's command line that its model or evaluation reads.
SETTINGS = {
    "backbone_lr_factor": 0.01,
    "backbone_path": "",
    "backbone_source": "detector",
    "backbone_warmup_epochs": 5,
    "drop": True,
    "embedding_warmup_epochs": 2,
    "input_scale_factor": 1,
    "learning_rate": 5e-4,
    "num_epochs": 25,
    "optim": "adam",
    "precomp_enc_type": "basic",
    "reset_start_epoch": False,
    "vse_mean_warmup_epochs": 1,
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of a checkpoint; return None if it is not VSE-infinity's.

    Whether vectors are normalised cannot be told from the weights: it is read from the options.

    Raises:
        KeyError: the options do not say.
        ValueError: the weights read pixels, their GRU has one direction, or the options belong to
            other weights.
    """
    if len(states) != 2:
        return None
    image, text = states
    if any(name.startswith("image_encoder.gpool.") for name in image):
        raise ValueError(
            "weights of VSE-infinity for grid features from pixels (backbone.*, image_encoder.*) "
            "are not supported: this library reads region features (*_butd_region_*)"
        )
    if not any(name.startswith("gpool.") for name in image):
        return None
    check_stated(options, "precomp_enc_type", "basic")
    options.require("no_imgnorm", "no_txtnorm")
    bert = any(name.startswith("bert.") for name in text)
    embed_dim, img_dim = image["fc.weight"].shape
    arguments = {
        **(bert_arguments(text) if bert else two_way_gru(text, "VSE-infinity")),
        "img_dim": img_dim,
        "embed_dim": embed_dim,
        "no_imgnorm": options.need("no_imgnorm"),
        "no_txtnorm": options.need("no_txtnorm"),
    }
    return arguments, read_state(image, IMAGE) | read_state(text, TRANSFORMER if bert else GRU)


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original.

    Names begin with "module." if the text encoder is a BERT, because the original trains it on
    several GPUs and silently ignores tensors with other names.

    Raises:
        ValueError: the original code does not have this form.
    """
    h, own = matcher.hparams, matcher.state_dict()
    if h["probabilistic"] or not h["mlp"]:
        raise ValueError(
            "the original VSE-infinity has mlp=true and probabilistic=false; this one has "
            f"mlp={h['mlp']} and probabilistic={h['probabilistic']}"
        )
    bert = isinstance(matcher.text, BertText)
    image, text = write_state(own, IMAGE), write_state(own, TRANSFORMER if bert else GRU)
    unused = torch.nn.BatchNorm1d(h["embed_dim"]).state_dict()
    states = [{**image, **{f"mlp.bns.1.{name}": x for name, x in unused.items()}}, text]
    if bert:
        states = [{f"module.{name}": x for name, x in state.items()} for state in states]
    options = {
        **stated(h, SIZES),
        "no_imgnorm": h["no_imgnorm"],
        "no_txtnorm": h["no_txtnorm"],
    }
    return states, {**SETTINGS, **options}
