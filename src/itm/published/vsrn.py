"""VSRN (github.com/KunpengLi1994/VSRN): state dicts of image encoder, text encoder, captioner.

The original does not save its captioner. If its weights are available, they are the third one.
"""

from __future__ import annotations

from typing import Any

from itm.layers.text import GRUText
from itm.published.tables import (
    SIZES,
    Known,
    Options,
    State,
    Table,
    gru_arguments,
    read_state,
    stated,
    write_state,
)

TABLES: list[Table] = [
    {
        "fc": "image.project",
        "img_rnn": "image.rnn",
        "bn": "image.norm",
        "Rs_GCN_{+1}.theta": "image.blocks.{}.theta",
        "Rs_GCN_{+1}.phi": "image.blocks.{}.phi",
        "Rs_GCN_{+1}.g": "image.blocks.{}.g",
        "Rs_GCN_{+1}.W.0": "image.blocks.{}.out",
        "Rs_GCN_{+1}.W.1": "image.blocks.{}.norm",
    },
    {"embed": "text.embed", "rnn": "text.rnn"},
    {
        "encoder.vid2hid": "captioner.project",
        "encoder.rnn": "captioner.encoder",
        "decoder.embedding": "captioner.embed",
        "decoder.attention.linear1": "captioner.attend",
        "decoder.attention.linear2": "captioner.energy",
        "decoder.rnn.weight_ih_l0": "captioner.decoder.weight_ih",
        "decoder.rnn.weight_hh_l0": "captioner.decoder.weight_hh",
        "decoder.rnn.bias_ih_l0": "captioner.decoder.bias_ih",
        "decoder.rnn.bias_hh_l0": "captioner.decoder.bias_hh",
        "decoder.out": "captioner.out",
    },
]
CONVOLUTIONS = ("Rs_GCN_", "image.blocks.")  # width 1 in the original, linear maps here

# The original derives the form from the name of its data folder.
FORMS = {("none", True): "f30k_precomp", ("columns", False): "coco_precomp"}

OPTIONS = {  # original option -> our argument
    **SIZES,
    "use_abs": "use_abs",
    "no_imgnorm": "no_imgnorm",
    "measure": "measure",
    "dim_hidden": "caption_dim",
    "dim_word": "caption_word_dim",
    "max_len": "caption_max_len",
    "input_dropout_p": "caption_dropout",
}

# Options that this library does not need; the original reads them when it builds the model.
REST = {
    "crop_size": 224,
    "finetune": False,
    "cnn_type": "vgg19",
    "use_restval": False,
    "reset_train": False,
    "bidirectional": 0,
    "rnn_type": "gru",
    "rnn_dropout_p": 0.5,
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not VSRN's.

    The tensors tell the form, not the options: a final batch norm means that of Flickr30K.
    """
    if len(states) not in (2, 3) or not any(name.startswith("Rs_GCN_") for name in states[0]):
        return None
    image, text = states[:2]
    final_bn = "bn.weight" in image
    gru = gru_arguments(text)
    del gru["bidirectional"]  # VSRN has one direction only
    arguments: Options = {
        **gru,
        "img_dim": image["fc.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "num_gcn": len({name.split(".")[0] for name in image if name.startswith("Rs_GCN_")}),
        "region_norm": "none" if final_bn else "columns",
        "final_bn": final_bn,
        "use_abs": options.assume("use_abs", False),
        "no_imgnorm": options.assume("no_imgnorm", False),
        "measure": options.assume("measure", "cosine"),
        "caption_weight": 0.0,
        "caption_dim": options.get("dim_hidden", 512),
        "caption_word_dim": options.get("dim_word", 300),
        "caption_max_len": options.get("max_len", 60),
        "caption_dropout": options.get("input_dropout_p", 0.2),
    }
    if len(states) == 3:
        arguments |= {
            "caption_weight": 1.0,
            "caption_dim": states[2]["encoder.vid2hid.weight"].shape[0],
            "caption_word_dim": states[2]["decoder.embedding.weight"].shape[1],
        }
    tensors: State = {}
    for state, table in zip(states, TABLES, strict=False):
        tensors |= read_state(state, table)
    for name, value in tensors.items():
        if name.startswith(CONVOLUTIONS) and value.dim() == 3:
            tensors[name] = value.squeeze(-1)
    return arguments, tensors


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original, with the captioner's, if there is one.

    Raises:
        ValueError: the original code does not have this form or text encoder.
    """
    h, own = matcher.hparams, matcher.state_dict()
    form = (h["region_norm"], h["final_bn"])
    if form not in FORMS or not isinstance(matcher.text, GRUText):
        raise ValueError(
            f"the original VSRN has a GRU for text and (region_norm, final_bn) = "
            f"{' or '.join(map(str, FORMS))}; this one has {type(matcher.text).__name__}, {form}"
        )
    tables = TABLES[: 2 if matcher.captioner is None else 3]
    states = [write_state(own, table) for table in tables]
    for name, value in states[0].items():
        if name.startswith(CONVOLUTIONS) and value.dim() == 2:
            states[0][name] = value.unsqueeze(-1)
    options = stated(h, OPTIONS)
    return states, {**REST, **options, "data_name": FORMS[form], "dim_vid": h["embed_dim"]}
