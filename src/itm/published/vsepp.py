"""VSE++ (github.com/fartashf/vsepp), on precomputed features: image encoder and text encoder.

The tensors are those of a SCAN with one direction. The options tell the two apart: VSE++ has
`measure`, and SCAN has `cross_attn`.
"""

from __future__ import annotations

from typing import Any

from itm.layers.text import GRUText
from itm.published.scan import has_encoders
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

IMAGE: Table = {"fc": "image"}
TEXT: Table = {"embed": "text.embed", "rnn": "text.rnn"}

OPTIONS = {  # original option -> our argument
    **SIZES,
    "measure": "measure",
    "use_abs": "use_abs",
    "no_imgnorm": "no_imgnorm",
}

# Options that this library does not need; the original reads them when it builds the model.
REST = {
    "crop_size": 224,
    "finetune": False,
    "cnn_type": "vgg19",
    "use_restval": False,
    "reset_train": False,
}


def read(states: list[State], options: Known) -> tuple[Options, State] | None:
    """Read arguments and tensors of an original checkpoint; return None if it is not VSE++'s.

    Measure, absolute values and norm cannot be told from the weights: they are read from the
    options. Missing ones are assumed to have the defaults of the original's command line.

    Raises:
        ValueError: the weights read pixels, or an option has another type.
    """
    if len(states) != 2 or "cross_attn" in options or not has_encoders(states):
        return None
    image, text = states
    if any("_reverse" in name or name.startswith("fc.") for name in text):
        return None
    if "fc.weight_g" in image:  # SCAN's weight norm
        return None
    cnn = sorted(name for name in image if name.startswith("cnn."))
    if cnn:
        raise ValueError(
            f"weights of VSE++ from pixels ({len(cnn)} tensors of a CNN: {cnn[0]}, ...): this "
            "library reads precomputed features, and the linear map of these weights was trained "
            "on the CNN's own output"
        )
    gru = gru_arguments(text)
    del gru["bidirectional"]  # VSE++ has one direction only
    arguments = {
        **gru,
        "img_dim": image["fc.weight"].shape[1],
        "embed_dim": image["fc.weight"].shape[0],
        "measure": options.assume("measure", "cosine"),
        "use_abs": options.assume("use_abs", False),
        "no_imgnorm": options.assume("no_imgnorm", False),
    }
    return arguments, read_state(image, IMAGE) | read_state(text, TEXT)


def write(matcher: Any) -> tuple[list[State], Options]:
    """Return state dicts and options of the original.

    Raises:
        ValueError: the original code does not have this text encoder.
    """
    if not isinstance(matcher.text, GRUText):
        raise ValueError(
            "the original VSE++ encodes text with a GRU; this matcher has "
            f"{type(matcher.text).__name__}"
        )
    own = matcher.state_dict()
    options = stated(matcher.hparams, OPTIONS)
    return [write_state(own, IMAGE), write_state(own, TEXT)], {**REST, **options}
