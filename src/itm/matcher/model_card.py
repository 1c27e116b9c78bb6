"""Describe a matcher in a model card: README.md of a saved folder and of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itm.matcher.protocol import MatcherLike
from itm.metrics.ranking import RECALLS

CARD = Path(__file__).with_name("model_card.md")  # a Jinja template


def make_card(matcher: MatcherLike, record: dict[str, Any]) -> str:
    """Write the text of README.md: the matcher, its use, its results, and how it was made."""
    from huggingface_hub import ModelCard, ModelCardData  # late: only sharing needs it

    name, sizes = type(matcher).__name__, matcher.hparams
    stage = "test" if "test/rsum" in record else "val"
    found = {key: record.get(f"{stage}/{key}") for key in [*RECALLS, "rsum"]}
    facts = {"split": stage, "images": "?", "protocol": "full", **record}
    versions = record.get("versions")
    card = ModelCard.from_template(
        ModelCardData(
            library_name="itm-lightning",
            tags=["image-text-matching", "image-text-retrieval", "itm-lightning", name.lower()],
        ),
        template_path=str(CARD),
        name=name,
        width=f"{sizes['img_dim']} wide" if "img_dim" in sizes else "of the width of its data",
        results={key: x for key, x in found.items() if isinstance(x, int | float)},
        data=Path(str(record.get("root", "data"))).name,
        **{key: facts[key] for key in ("split", "images", "protocol")},
        command=record.get("command"),
        versions=versions if isinstance(versions, dict) else {},
    )
    return f"{card}\n"
