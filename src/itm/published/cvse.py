"""CVSE (github.com/BruceW91/CVSE): eight state dicts, one per module."""

from __future__ import annotations

from typing import Any

import torch

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

# The original registers three layers of each attention twice; these are the second names.
ALIASES = {"embedding_1.0": "fc1", "embedding_2.0": "fc2", "embedding_3.0": "fc3"}


def _attention(module: str, part: str) -> Table:
    return {
        "embedding_1.0": f"{module}.{part}",
        "embedding_1.1": f"{module}.{part}_norm",
        "embedding_2.0": f"{module}.query",
        "embedding_2.1": f"{module}.query_norm",
        "embedding_3.0": f"{module}.score",
        "fc1": None,
        "fc2": None,
        "fc3": None,
    }


TABLES: list[Table] = [
    {"fc": "image"},
    {"embed": "text.embed", "rnn": "text.rnn"},
    {
        **_attention("image_attention", "part"),
        "fc2_2": None,
        "embedding_2_2.0": None,
        "embedding_2_2.1": None,
        "fc4": None,
    },
    _attention("text_attention", "part"),
    _attention("image_consensus", "concept"),
    _attention("text_consensus", "concept"),
    {
        "gc1.weight": "graph.first",
        "gc2.weight": "graph.second",
        "adj_all": "graph.adjacency",
        "adj_O_P": None,
        "adj_O_M": None,
        "joint_att_emb": None,
    },
    {},
]

# The original chooses the weight of the consensus at test time by the name of the data set.
TEST_WEIGHTS = {0.85: "f30k_precomp", 0.9: "coco_precomp"}

OWN_SIZES = {  # original option -> our argument; the tensors also tell these
    **SIZES,
    "bi_gru": "bidirectional",
    "num_attribute": "num_concepts",
    "input_channel": "concept_dim",
    "use_BatchNorm": "use_batchnorm",
}
# Options that cannot be told from the tensors: theirs -> our argument and its default.
OPTIONS: dict[str, tuple[str, Any]] = {
    "Concept_label_ratio": ("concept_ratio", 0.35),
    "activation_type": ("activation", "tanh"),
    "feature_fuse_type": ("fusion", "weight_sum"),
    "dropout_rate": ("dropout", 0.4),
    "no_imgnorm": ("no_imgnorm", False),
}
# Options of the original that this library supports only at these values, those of the authors.
FIXED = {
    "no_txtnorm": False,
    "use_abs": False,
    "measure": "cosine",
    "precomp_enc_type": "basic",
}
# Options that this library does not need; the original reads them when it builds the model.
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
    "wemb_type": "random_init",  # no file of word vectors: the weights replace them
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not CVSE's.

    No checkpoint holds the word vectors of the concepts: the caller adds "graph.vectors".

    Raises:
        ValueError: an option differs from those of the published models.
    """
    if not any({"gc1.weight", "gc2.weight", "adj_all"} & state.keys() for state in states):
        return None
    if len(states) != len(TABLES):
        raise ValueError(f"CVSE weights must be {len(TABLES)} state dicts, got {len(states)}")
    other = {k: options[k] for k, v in FIXED.items() if options.assume(k, v) != v}
    if other:
        raise ValueError(f"weights trained with {other} are not supported, only with {FIXED}")
    image, text, attention, consensus, graph = (states[i] for i in (0, 1, 2, 4, 6))
    use_batchnorm = "embedding_1.1.weight" in consensus
    # The original chooses the weight at test time by the name of the data: 0.90 for COCO.
    name = options.assume("data_name", "f30k_precomp") if "eval_alpha" not in options else ""
    if name and not ("coco" in name or "f30k" in name):
        options.assumed["eval_alpha"] = 0.85
    eval_alpha = 0.9 if "coco" in name else 0.85
    arguments = {
        **gru_arguments(text),
        "img_dim": image["fc.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "num_regions": len(attention["embedding_1.1.weight"]) if use_batchnorm else 36,
        "num_concepts": graph["adj_all"].shape[0],
        "concept_dim": graph["gc1.weight"].shape[0],
        "eval_alpha": options.get("eval_alpha", eval_alpha),
        "use_batchnorm": use_batchnorm,
        **{ours: options.assume(theirs, default) for theirs, (ours, default) in OPTIONS.items()},
    }
    tensors: State = {}
    for index, (state, table) in enumerate(zip(states, TABLES, strict=True)):
        tensors |= read_state(state, table, prefix=f"{index}.")
    return arguments, tensors


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original; layers that it never uses are zero.

    They hold neither concept words nor their vectors.

    Raises:
        ValueError: the original code does not have this form.
    """
    h = matcher.hparams
    if not isinstance(matcher.text, GRUText) or h["consensus_weight"] != 0.05:
        raise ValueError(
            "the original CVSE has a GRU for text and consensus_weight=0.05; this one has "
            f"{type(matcher.text).__name__}, {h['consensus_weight']}"
        )
    if h["eval_alpha"] not in TEST_WEIGHTS:
        raise ValueError(
            f"the original CVSE has eval_alpha={' or '.join(map(str, TEST_WEIGHTS))}, which it "
            f"takes from the name of the data set; this one has {h['eval_alpha']}"
        )
    own = matcher.state_dict()
    states = [write_state(own, table) | _unused(table, h) for table in TABLES]
    for state in states:
        for name, value in list(state.items()):
            layer, _, leaf = name.rpartition(".")
            if layer in ALIASES:
                state[f"{ALIASES[layer]}.{leaf}"] = value
    options = stated(h, OWN_SIZES)
    options |= {theirs: h[ours] for theirs, (ours, _) in OPTIONS.items()}
    options["eval_alpha"] = h["eval_alpha"]
    return states, {**REST, **options, **FIXED, "data_name": TEST_WEIGHTS[h["eval_alpha"]]}


def _unused(table: Table, arguments: Options) -> State:
    """Make the layers that the original expects in its files but never uses."""
    width, size = arguments["embed_dim"], arguments["num_concepts"]
    linear = {"weight": torch.zeros(width, width), "bias": torch.zeros(width)}
    norm = {
        "weight": torch.ones(width),
        "bias": torch.zeros(width),
        "running_mean": torch.zeros(width),
        "running_var": torch.ones(width),
        "num_batches_tracked": torch.tensor(0),
    }
    # Without batch norms, only the sigmoid variant of the original has this one.
    has_norm = arguments["use_batchnorm"] or arguments["activation"] == "sigmoid"
    state: State = {}
    for name in (theirs for theirs, ours in table.items() if ours is None):
        if name.startswith("adj_"):
            state[name] = torch.eye(size)
        elif name == "embedding_2_2.1":
            state |= {f"{name}.{leaf}": x for leaf, x in norm.items()} if has_norm else {}
        elif name not in ALIASES.values():
            state |= {f"{name}.{leaf}": x for leaf, x in linear.items()}
    return state
