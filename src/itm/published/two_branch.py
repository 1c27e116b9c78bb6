"""The two-branch networks: the authors' embedding network, its PyTorch port, and CITE.

The authors (lwwang/Two_branch_network) and CITE (BryanPlummer/cite, commit dd92c5c) wrote
TensorFlow, where matrices are transposed; the port is BryanPlummer/two_branch_networks.
"""

from __future__ import annotations

from typing import Any

import torch

from itm.published.tables import Known, Options, State, Table, read_state, write_state

# TensorFlow's name -> ours, inside a linear map and inside a `Dense`.
LINEAR = {"weights": "weight", "biases": "bias"}
DENSE = {
    "fc/weights": "linear.weight",
    "fc/biases": "linear.bias",
    "bnorm/gamma": "norm.weight",
    "bnorm/beta": "norm.bias",
    "bnorm/moving_mean": "norm.running_mean",
    "bnorm/moving_variance": "norm.running_var",
}


def _inside(layers: dict[str, str], leaves: dict[str, str]) -> Table:
    return {
        f"{theirs}/{leaf}": f"{ours}.{name}"
        for theirs, ours in layers.items()
        for leaf, name in leaves.items()
    }


TENSORFLOW = {
    **_inside({"im_embed_1": "image.first", "sent_embed_1": "sentence.first"}, DENSE),
    **_inside({"im_embed_2": "image.second", "sent_embed_2": "sentence.second"}, LINEAR),
}
PORT: Table = {
    "words": "text.embed",
    "word_attention.0": "text.weigh",
    "image_branch.fc1.0": "image.first.linear",
    "image_branch.fc1.1": "image.first.norm",
    "image_branch.fc2": "image.second",
    "text_branch.fc1.0": "sentence.first.linear",
    "text_branch.fc1.1": "sentence.first.norm",
    "text_branch.fc2": "sentence.second",
}
CITE = {
    **_inside(
        {
            "region_embed_1": "image.first",
            "phrase_embed_1": "sentence.first",
            "concept_weight_embed_1": "concept.first",
            "joint_embed_1": "joint",
            "concept_{+1}": "experts.{}",
        },
        DENSE,
    ),
    **_inside(
        {
            "region_embed_2": "image.second",
            "phrase_embed_2": "sentence.second",
            "concept_weight_embed_2": "concept.second",
            "joint_embed_3": "last",
        },
        LINEAR,
    ),
}
OPTIMISER = ("Adam", "Adam_1", "Variable", "global_step", "beta1_power", "beta2_power")

# Arguments of CITE on Flickr30K Entities (ReferIt: 12 experts).
CITE_ARGUMENTS: Options = {
    "hidden_dim": 1024,
    "embed_dim": 1024,
    "joint_dims": [1024, 256],
    "dropout": 0.0,
    "bn_momentum": 0.01,
    "bn_eps": 1e-3,
    "norm_axis": "regions",
    "num_experts": 4,
    "weight_penalty": [5e-4, 1e-3, 5e-3],
    "level": "region",
}


# The embedding network ----------------------------------------------------------------------------


def read_embedding(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None for another network.

    There are three layouts: the authors' TensorFlow variables, and PyTorch ports with and without
    word vectors. The option "word_embedding_reg" (5e-5 in the port) pulls word vectors towards the
    published ones in further training.
    """
    if len(states) != 1:
        return None
    state = states[0]
    if "sent_embed_1/fc/weights" in state:
        tensors = _read_tensorflow(state, TENSORFLOW)
        text, norm = "vectors", {}
    elif "text_branch.fc1.0.weight" in state:
        tensors = read_state(state, PORT)
        words = "attend" if "word_attention.0.weight" in state else "mean"
        text = words if "words.weight" in state else "vectors"
        norm = {"bn_momentum": 0.1, "bn_biased": False, "text_lr_scale": 2.0}
    else:
        return None
    hidden, img_dim = tensors["image.first.linear.weight"].shape
    arguments: Options = {
        "img_dim": img_dim,
        "hidden_dim": hidden,
        "embed_dim": len(tensors["image.second.bias"]),
        "text": {"name": text},
        **norm,
    }
    if text == "vectors":
        arguments["sentence_dim"] = tensors["sentence.first.linear.weight"].shape[1]
    else:
        vocab_size, word_dim = tensors["text.embed.weight"].shape
        arguments |= {"vocab_size": vocab_size, "word_dim": word_dim}
        if word_reg := options.get("word_embedding_reg"):
            arguments["text"]["word_reg"] = word_reg
            tensors["text.initial"] = tensors["text.embed.weight"].clone()
    return arguments, tensors


def write_embedding(matcher: Any) -> tuple[list[State], Options]:
    """Return state dict and options: of the authors' code for text=vectors, else of the port.

    Raises:
        ValueError: no published code has this form: regions, another eps, text=gru or text=bert.
    """
    h, own = matcher.hparams, matcher.state_dict()
    text = h["text"] or {"name": "mean"}
    if (h["level"], h["bn_eps"]) != ("image", 1e-5):
        raise ValueError(
            "the published network has level=image and bn_eps=1e-5; this one has level="
            f"{h['level']} and bn_eps={h['bn_eps']}"
        )
    if text["name"] == "vectors":
        return [_write_tensorflow(own, TENSORFLOW)], {}
    if text["name"] not in ("mean", "attend"):
        raise ValueError(f"no published two-branch network has text={text['name']}")
    return [write_state(own, PORT)], {"word_embedding_reg": text.get("word_reg", 0.0)}


# The similarity network ---------------------------------------------------------------------------


def read_similarity(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of a CITE checkpoint; return None if it is not CITE's.

    `norm_axis` and "embed_l1", the weight of the concept logits, cannot be told from the weights:
    they are read from `options`. Missing ones are assumed to be those of CITE's code.
    """
    if len(states) != 1 or "joint_embed_1/fc/weights" not in states[0]:
        return None
    tensors = _read_tensorflow(states[0], CITE)
    hidden, img_dim = tensors["image.first.linear.weight"].shape
    arguments = CITE_ARGUMENTS | {
        "img_dim": img_dim,
        "sentence_dim": tensors["sentence.first.linear.weight"].shape[1],
        "hidden_dim": hidden,
        "embed_dim": len(tensors["image.second.bias"]),
        "joint_dims": [len(tensors["joint.linear.bias"]), len(tensors["experts.0.linear.bias"])],
        "norm_axis": options.assume("norm_axis", "regions"),
        "num_experts": len(tensors.get("concept.second.bias", ())),
        "concept_l1": options.get("embed_l1", 5e-5),
        "text": {"name": "vectors"},
    }
    return arguments, tensors


def write_similarity(matcher: Any) -> tuple[list[State], Options]:
    """Return variables and options of CITE.

    Raises:
        ValueError: CITE does not have this form.
    """
    h = matcher.hparams
    own = {"level": h["level"], "bn_eps": h["bn_eps"], "text": (h["text"] or {}).get("name")}
    original = {"level": "region", "bn_eps": 1e-3, "text": "vectors"}
    if own != original:
        raise ValueError(f"the original, CITE, has {original}; this one has {own}")
    options = {"norm_axis": h["norm_axis"], "embed_l1": h["concept_l1"]}
    return [_write_tensorflow(matcher.state_dict(), CITE)], options


# TensorFlow ---------------------------------------------------------------------------------------


def _read_tensorflow(state: State, table: Table) -> State:
    """Rename variables to our tensors; leave out the optimiser's; count no batches as seen."""
    weights = {k: v for k, v in state.items() if k.split("/")[-1] not in OPTIMISER}
    tensors = _transposed(read_state(weights, table))
    norms = [name for name in tensors if name.endswith(".running_mean")]
    counts = (name.replace("running_mean", "num_batches_tracked") for name in norms)
    return tensors | {name: torch.tensor(0) for name in counts}


def _write_tensorflow(tensors: State, table: Table) -> State:
    return _transposed(write_state(tensors, table))


def _transposed(state: State) -> State:
    return {k: v.T.contiguous() if v.dim() == 2 else v for k, v in state.items()}
