"""SGRAF's original checkpoints: three state dicts, to and from the names of `itm.models.sgraf`."""

from typing import Any

from torch import Tensor

OPTIONS = {  # original option -> our argument
    "img_dim": "img_dim",
    "word_dim": "word_dim",
    "embed_size": "embed_dim",
    "num_layers": "num_layers",
    "bi_gru": "bidirectional",
    "no_imgnorm": "no_imgnorm",
    "no_txtnorm": "no_txtnorm",
    "module_name": "module",
    "sim_dim": "sim_dim",
    "sgr_step": "sgr_steps",
}


def original_modules(module: str, sgr_steps: int) -> list[dict[str, str]]:
    """Original module -> ours, for the image encoder, the text encoder and the similarity."""
    similarity = {
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
    }
    if module == "SAF":
        similarity |= {"SAF_module.attn_sim_w": "reduce.attend", "SAF_module.bn": "reduce.norm"}
    else:
        parts = {"graph_query_w": "query", "graph_key_w": "key", "sim_graph_w": "graph"}
        for k in range(sgr_steps):
            for old, new in parts.items():
                similarity[f"SGR_module.{k}.{old}"] = f"reduce.steps.{k}.{new}"
    return [{"fc": "image"}, {"embed": "text.embed", "cap_rnn": "text.rnn"}, similarity]


def published(
    states: list[dict[str, Tensor]], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Arguments and weights from the original's image, text and similarity state dicts."""
    own = ("sim_tran", "SAF_module.", "SGR_module.")
    if len(states) != 3 or not any(name.startswith(own) for name in states[2]):
        return None
    image, text, similarity = states
    module = "SAF" if any(name.startswith("SAF_module.") for name in similarity) else "SGR"
    steps = len({name.split(".")[1] for name in similarity if name.startswith("SGR_module.")})
    arguments = {
        "vocab_size": text["embed.weight"].shape[0],
        "img_dim": image["fc.weight"].shape[1],
        "module": module,
        "num_regions": similarity["v_global_w.embedding_local.1.weight"].shape[0],
        "word_dim": text["embed.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "sim_dim": similarity["sim_tranloc_w.weight"].shape[0],
        "sgr_steps": steps or options.get("sgr_step", 3),
        "num_layers": sum(
            name.startswith("cap_rnn.weight_ih_l") and not name.endswith("_reverse")
            for name in text
        ),
        "bidirectional": "cap_rnn.weight_ih_l0_reverse" in text,
        "no_imgnorm": bool(options.get("no_imgnorm", False)),
        "no_txtnorm": bool(options.get("no_txtnorm", False)),
    }
    tensors = {}
    for state, table in zip(states, original_modules(module, steps), strict=True):
        for name, value in state.items():
            part, _, leaf = name.rpartition(".")
            # An unknown module keeps its name, so that loading reports it.
            tensors[f"{table.get(part, part)}.{leaf}"] = value
    return arguments, tensors


def to_published(
    tensors: dict[str, Tensor], arguments: dict[str, Any]
) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """The original's three state dicts and options.

    Args:
        tensors: state dict of an `SGRAF`.
        arguments: its constructor arguments.
    """
    states = []
    for table in original_modules(arguments["module"], arguments["sgr_steps"]):
        back = {ours: theirs for theirs, ours in table.items()}
        state = {}
        for name, value in tensors.items():
            module, _, leaf = name.rpartition(".")
            if module in back:
                state[f"{back[module]}.{leaf}"] = value
        states.append(state)
    options = {theirs: arguments[ours] for theirs, ours in OPTIONS.items()}
    return states, {**options, "vocab_size": arguments["vocab_size"]}
