"""CASC: three state dicts, for the two encoders of SCAN and the label head."""

from __future__ import annotations

from typing import Any

import torch

from itm.published.scan import has_encoders, read_encoders, write_encoders
from itm.published.tables import Known, Options, State, Table, read_state, write_state

HEAD: Table = {"fc1": "head.first", "fc2": "head.second"}

# Original option -> our argument and the value in the published model.
OPTIONS: dict[str, tuple[str, Any]] = {
    "raw_feature_norm": ("raw_norm", "clipped_l2norm"),
    "lambda_softmax_avg": ("t2i_temperature", 9.0),
    "t2i_agg_func": ("t2i_aggregation", "Mean"),
    "lambda_softmax_lse": ("i2t_temperature", 4.0),
    "i2t_agg_func": ("i2t_aggregation", "LogSumExp"),
    "lambda_lse": ("lambda_lse", 5.0),
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not CASC's.

    Directions and aggregations cannot be told from the weights: they are read from the options.
    Missing ones are assumed to be those of the published model. Positive weights are 1, since the
    original keeps them in a separate file and only training needs them.
    """
    if len(states) != 3 or not has_encoders(states):
        return None
    head = states[2]
    if not any(name.startswith(("fc1.", "fc2.")) for name in head):
        return None
    arguments, tensors = read_encoders(states, options)
    num_labels, hidden = head["fc2.weight"].shape
    cross = options.assume("cross_attn", "all")
    arguments |= {ours: options.assume(theirs, x) for theirs, (ours, x) in OPTIONS.items()}
    arguments |= {"direction": "both" if cross == "all" else cross}
    arguments |= {"num_labels": num_labels, "hidden": hidden}
    weights = {"head.pos_weight": torch.ones(num_labels)}
    return arguments, tensors | read_state(head, HEAD) | weights


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original, which keeps positive weights in another file.

    Raises:
        ValueError: alpha or the text encoder differ from the original's.
    """
    h = matcher.hparams
    if h["direction"] == "both" and h["alpha"] != 0.8:
        raise ValueError(f"the original CASC has alpha=0.8; this one has {h['alpha']}")
    states, options = write_encoders(matcher)
    own = {theirs: h[ours] for theirs, (ours, _) in OPTIONS.items()}
    own |= {"cross_attn": "all" if h["direction"] == "both" else h["direction"]}
    own |= {"caption_vocab": h["num_labels"], "fc_hidden": h["hidden"]}
    own |= {"caption_np": "./vocab/"}  # folder of the positive weights, which only training reads
    return [*states, write_state(matcher.state_dict(), HEAD)], {**own, **options}
