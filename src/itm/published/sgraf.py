"""SGRAF (github.com/Paranioar/SGRAF): three state dicts, for image, text and similarity."""

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
    {"fc": "image"},
    {"embed": "text.embed", "cap_rnn": "text.rnn"},
    {
        "v_global_w.embedding_local.0": "image_global.part",
        "v_global_w.embedding_local.1": "image_global.part_norm",
        "v_global_w.embedding_global.0": "image_global.mean",
        "v_global_w.embedding_global.1": "image_global.mean_norm",
        "v_global_w.embedding_common.0": "image_global.score",
        "t_global_w.embedding_local.0": "text_global.part",
        "t_global_w.embedding_global.0": "text_global.mean",
        "t_global_w.embedding_common.0": "text_global.score",
        "sim_tranloc_w": "local_node",
        "sim_tranglo_w": "global_node",
        "sim_eval_w": "head",
        "SAF_module.attn_sim_w": "reduce.attend",
        "SAF_module.bn": "reduce.norm",
        "SGR_module.{}.graph_query_w": "reduce.steps.{}.query",
        "SGR_module.{}.graph_key_w": "reduce.steps.{}.key",
        "SGR_module.{}.sim_graph_w": "reduce.steps.{}.graph",
    },
]

OPTIONS = {  # original option -> our argument
    **SIZES,
    "bi_gru": "bidirectional",
    "no_imgnorm": "no_imgnorm",
    "no_txtnorm": "no_txtnorm",
    "module_name": "module",
    "sim_dim": "sim_dim",
    "sgr_step": "sgr_steps",
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not SGRAF's."""
    own = ("sim_tran", "SAF_module.", "SGR_module.")
    if len(states) != 3 or not any(name.startswith(own) for name in states[2]):
        return None
    image, text, similarity = states
    module = "SAF" if any(name.startswith("SAF_module.") for name in similarity) else "SGR"
    steps = len({name.split(".")[1] for name in similarity if name.startswith("SGR_module.")})
    arguments = {
        **gru_arguments(text, "cap_rnn"),
        "img_dim": image["fc.weight"].shape[1],
        "module": module,
        "num_regions": similarity["v_global_w.embedding_local.1.weight"].shape[0],
        "embed_dim": image["fc.weight"].shape[0],
        "sim_dim": similarity["sim_tranloc_w.weight"].shape[0],
        "sgr_steps": steps or options.get("sgr_step", 3),
        "no_imgnorm": options.assume("no_imgnorm", False),
        "no_txtnorm": options.assume("no_txtnorm", False),
    }
    tensors: State = {}
    for state, table in zip(states, TABLES, strict=True):
        tensors |= read_state(state, table)
    return arguments, tensors


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original.

    Raises:
        ValueError: temperature or text encoder differ from the original's.
    """
    h, own = matcher.hparams, matcher.state_dict()
    if not isinstance(matcher.text, GRUText) or h["temperature"] != 9:
        raise ValueError(
            "the original SGRAF has a GRU for text and temperature 9; this one has "
            f"{type(matcher.text).__name__}, {h['temperature']}"
        )
    options = stated(h, OPTIONS)
    return [write_state(own, table) for table in TABLES], options
