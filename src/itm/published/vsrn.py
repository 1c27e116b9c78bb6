"""VSRN's original checkpoints: two state dicts, to and from the names of `itm.models.vsrn.vsrn`."""

from typing import Any

from torch import Tensor

# The original code derives the form from the name of its data folder.
FORMS = {("none", True): "f30k_precomp", ("columns", False): "coco_precomp"}

OPTIONS = {  # original option -> our argument
    "vocab_size": "vocab_size",
    "img_dim": "img_dim",
    "word_dim": "word_dim",
    "embed_size": "embed_dim",
    "num_layers": "num_layers",
    "use_abs": "use_abs",
    "no_imgnorm": "no_imgnorm",
    "measure": "measure",
    "dim_hidden": "caption_dim",
    "dim_word": "caption_word_dim",
    "max_len": "caption_max_len",
    "input_dropout_p": "caption_dropout",
}

# Options of the original that nothing here depends on; it reads them when it builds the model.
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


def original_modules(num_gcn: int) -> list[dict[str, str]]:
    """Original module -> ours, for the image encoder, the text encoder and the captioner."""
    image = {"fc": "image.project", "img_rnn": "image.rnn", "bn": "image.norm"}
    parts = {"theta": "theta", "phi": "phi", "g": "g", "W.0": "out", "W.1": "norm"}
    for k in range(num_gcn):
        image |= {f"Rs_GCN_{k + 1}.{old}": f"image.blocks.{k}.{new}" for old, new in parts.items()}
    captioner = {
        "encoder.vid2hid": "captioner.project",
        "encoder.rnn": "captioner.encoder",
        "decoder.embedding": "captioner.embed",
        "decoder.attention.linear1": "captioner.attend",
        "decoder.attention.linear2": "captioner.energy",
        "decoder.rnn": "captioner.decoder",
        "decoder.out": "captioner.out",
    }
    return [image, {"embed": "text.embed", "rnn": "text.rnn"}, captioner]


def published(
    states: list[dict[str, Tensor]], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Arguments and weights from the original's image and text state dicts, and the captioner's.

    The form is found from the tensors, not from the options: a final batch norm means Flickr30K's.
    """
    if len(states) not in (2, 3) or not any(name.startswith("Rs_GCN_") for name in states[0]):
        return None
    image, text = states[:2]
    num_gcn = len({name.split(".")[0] for name in image if name.startswith("Rs_GCN_")})
    final_bn = "bn.weight" in image
    arguments: dict[str, Any] = {
        "vocab_size": text["embed.weight"].shape[0],
        "img_dim": image["fc.weight"].shape[1],
        "word_dim": text["embed.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "num_layers": sum(name.startswith("rnn.weight_ih_l") for name in text),
        "num_gcn": num_gcn,
        "region_norm": "none" if final_bn else "columns",
        "final_bn": final_bn,
        "use_abs": bool(options.get("use_abs", False)),
        "no_imgnorm": bool(options.get("no_imgnorm", False)),
        "measure": options.get("measure", "cosine"),
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
    tensors = {}
    for state, table in zip(states, original_modules(num_gcn), strict=False):
        for name, value in state.items():
            module, _, leaf = name.rpartition(".")
            leaf = leaf.removesuffix("_l0") if module == "decoder.rnn" else leaf
            # An unknown module keeps its name, so that loading reports it.
            conv = module.startswith("Rs_GCN_") and value.dim() == 3
            tensors[f"{table.get(module, module)}.{leaf}"] = value.squeeze(-1) if conv else value
    return arguments, tensors
