"""CVSE's original checkpoints: eight state dicts, to and from the names of `itm.models.cvse`."""

from typing import Any

import torch
from torch import Tensor

from itm.published.convert import STATED

ATTENTION = {
    "embedding_1.0": "part",
    "embedding_1.1": "part_norm",
    "embedding_2.0": "query",
    "embedding_2.1": "query_norm",
    "embedding_3.0": "score",
}
CONSENSUS = {**ATTENTION, "embedding_1.0": "concept", "embedding_1.1": "concept_norm"}


def _inside(module: str, table: dict[str, str]) -> dict[str, str]:
    return {theirs: f"{module}.{ours}" for theirs, ours in table.items()}


# Their names to ours, for each of the eight state dicts.
TABLES: list[dict[str, str]] = [
    {"fc": "image"},
    {"embed": "text.embed", "rnn": "text.rnn"},
    _inside("image_attention", ATTENTION),
    _inside("text_attention", ATTENTION),
    _inside("image_consensus", CONSENSUS),
    _inside("text_consensus", CONSENSUS),
    {"gc1.weight": "graph.first", "gc2.weight": "graph.second", "adj_all": "graph.adjacency"},
    {},
]
# The same layers under a second name.
ALIASES = {"embedding_1.0": "fc1", "embedding_2.0": "fc2", "embedding_3.0": "fc3"}
# Layers that the original saves and never uses.
UNUSED = {2: {"fc2_2", "embedding_2_2.0", "embedding_2_2.1", "fc4"}, 6: {"joint_att_emb"}}
UNUSED_GRAPHS = {"adj_O_P", "adj_O_M"}
# Options that tensors do not tell: theirs -> our argument and its default.
OPTIONS: dict[str, tuple[str, Any]] = {
    "Concept_label_ratio": ("concept_ratio", 0.35),
    "activation_type": ("activation", "tanh"),
    "feature_fuse_type": ("fusion", "weight_sum"),
    "dropout_rate": ("dropout", 0.4),
    "no_imgnorm": ("no_imgnorm", False),
}
# What the original can do and this library does not; all at these values in the authors' runs.
FIXED = {
    "no_txtnorm": False,
    "use_abs": False,
    "measure": "cosine",
    "precomp_enc_type": "basic",
}

# Options that nothing here depends on; the original reads them when it builds the model.
REST = {
    "orig_img_path": "./data/",
    "orig_data_name": "f30k",
    "use_restval": True,
    "attribute_path": "./concepts/",
    "inp_name": "./concepts/concepts_emb.pkl",
    "adj_file": "./concepts/adj_concepts.pkl",
    "concept_name": "./concepts/category_concepts.json",
    "learning_rate_MLGCN": 2e-4,
    "lr_MLGCN_update": 10,
    "norm_func_type": "sigmoid",
    "wemb_type": "random_init",  # needs no file of word vectors, which the weights replace
}


def published(
    states: list[dict[str, Tensor]], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Arguments and weights from the original's state dicts.

    The concepts' word vectors are in no checkpoint: "graph.vectors" is left to the caller.

    Raises:
        ValueError: options of the original that were never published and are not supported.
    """
    if not any({"gc1.weight", "gc2.weight", "adj_all"} & state.keys() for state in states):
        return None
    if len(states) != len(TABLES):
        raise ValueError(f"CVSE weights are {len(TABLES)} state dicts, here are {len(states)}")
    other = {k: options[k] for k, v in FIXED.items() if options.get(k, v) != v}
    if other:
        raise ValueError(f"weights trained with {other} are not supported, only with {FIXED}")
    image, text, attention, consensus, graph = (states[i] for i in (0, 1, 2, 4, 6))
    use_batchnorm = "embedding_1.1.weight" in consensus
    # The original sets the weight at test time by the name of the data, 0.90 for COCO.
    eval_alpha = 0.9 if "coco" in str(options.get("data_name")) else 0.85
    arguments: dict[str, Any] = {
        "vocab_size": text["embed.weight"].shape[0],
        "img_dim": image["fc.weight"].shape[1],
        "word_dim": text["embed.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "num_layers": sum(k.startswith("rnn.weight_ih") and "reverse" not in k for k in text),
        "bidirectional": "rnn.weight_ih_l0_reverse" in text,
        "num_regions": len(attention["embedding_1.1.weight"]) if use_batchnorm else 36,
        "num_concepts": graph["adj_all"].shape[0],
        "concept_dim": graph["gc1.weight"].shape[0],
        "eval_alpha": options.get("eval_alpha", eval_alpha),
        "use_batchnorm": use_batchnorm,
        **{ours: options.get(theirs, default) for theirs, (ours, default) in OPTIONS.items()},
    }
    tensors = {}
    for index, (state, table) in enumerate(zip(states, TABLES, strict=True)):
        skipped = UNUSED.get(index, set()) | (set(ALIASES.values()) if 2 <= index <= 5 else set())
        for name, value in state.items():
            module, _, leaf = name.rpartition(".")
            if module in skipped or name in UNUSED_GRAPHS:
                continue
            # An unknown name is kept, so that loading reports it.
            prefix = table.get(module, f"{index}.{module}")
            tensors[table.get(name, f"{prefix}.{leaf}")] = value
    return arguments, tensors


def to_published(
    tensors: dict[str, Tensor], arguments: dict[str, Any]
) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """The original's eight state dicts and options; what it never uses is zero.

    Args:
        tensors: state dict of a `CVSE`.
        arguments: its constructor arguments.
    """
    states: list[dict[str, Tensor]] = []
    for table in TABLES:
        state = {}
        for theirs, ours in table.items():
            for name, value in tensors.items():
                if name == ours or name.startswith(f"{ours}."):
                    leaf = name.removeprefix(ours)
                    state[theirs + leaf] = value
                    if theirs in ALIASES:
                        state[ALIASES[theirs] + leaf] = value
        states.append(state)
    _add_unused(states, arguments)
    options = {theirs: arguments[ours] for theirs, (ours, _) in OPTIONS.items()}
    options |= {theirs: arguments[ours] for theirs, ours in STATED.items() if ours in arguments}
    options["eval_alpha"] = arguments["eval_alpha"]
    # The original sets the weight of the consensus at test time by this name.
    name = "coco_precomp" if arguments["eval_alpha"] == 0.9 else "f30k_precomp"
    return states, {**REST, **options, **FIXED, "data_name": name}


def _add_unused(states: list[dict[str, Tensor]], arguments: dict[str, Any]) -> None:
    """The layers that the original expects in its files although nothing reads them."""
    width, size = arguments["embed_dim"], arguments["num_concepts"]
    linear = {"weight": torch.zeros(width, width), "bias": torch.zeros(width)}
    norm = {
        "weight": torch.ones(width),
        "bias": torch.zeros(width),
        "running_mean": torch.zeros(width),
        "running_var": torch.ones(width),
        "num_batches_tracked": torch.tensor(0),
    }
    # Without batch norms only the sigmoid variant of the original keeps this one.
    has_norm = arguments["use_batchnorm"] or arguments["activation"] == "sigmoid"
    for index, modules in UNUSED.items():
        for module in modules:
            if module != "embedding_2_2.1":
                states[index] |= {f"{module}.{leaf}": value for leaf, value in linear.items()}
            elif has_norm:
                states[index] |= {f"{module}.{leaf}": value for leaf, value in norm.items()}
    states[6] |= {name: torch.eye(size) for name in UNUSED_GRAPHS}
