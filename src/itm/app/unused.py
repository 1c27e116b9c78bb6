"""Find options that are given although the chosen model, loss, text and data do not use them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from itm.app.arguments import key_of
from itm.app.choices import SHARED, default_choices, rewrite_choices
from itm.app.config import compose, target
from itm.app.quoting import as_typed
from itm.utils.checks import alternatives
from itm.utils.log_files import say


class Used(NamedTuple):
    """Options that take effect only with some values of another option.

    Attributes:
        options: their names, separated by blanks.
        decider: the other option, or several, of which one must have such a value.
        values: these values; empty = any but 0, false and null.
    """

    options: str
    decider: str
    values: tuple[Any, ...] = ()


HARD = Used("warmup_steps", "negatives", ("hardest", "top", "distance"))

# Options of a model, by the name of its class.
MODELS = {
    "SCAN": (Used("lambda_lse", "aggregation", ("LogSumExp",)),),
    "CASC": (
        Used("t2i_temperature t2i_aggregation", "direction", ("both", "t2i")),
        Used("i2t_temperature i2t_aggregation", "direction", ("both", "i2t")),
        Used("lambda_lse", "t2i_aggregation i2t_aggregation", ("LogSumExp",)),
        Used("alpha", "direction", ("both",)),
        Used("pos_weight head_lr_scale", "label_weight"),
    ),
    "CHAN": (
        Used("alpha", "coding", ("VSA",)),
        Used("beta", "pooling", ("LogSumExp", "Softmax")),
        Used("scale_lse", "pooling", ("LogSumExp",)),
        Used("attend_padding", "self_attention"),
    ),
    "CVSE": (Used("alpha eval_alpha", "fusion", ("weight_sum",)),),
    "SGRAF": (Used("sgr_steps", "module", ("SGR",)),),
    "TwoBranchSimilarity": (Used("concept_l1", "num_experts"),),
    "VSEInfinity": (
        Used("measure log_var_bias log_var_gain", "probabilistic"),
        Used("pad_statistics", "mlp"),
    ),
    "VSRN": (
        Used("caption_dim caption_word_dim caption_max_len caption_dropout", "caption_weight"),
    ),
}

# Options of a loss, likewise.
LOSSES = {
    "Triplet": (HARD, Used("top_k", "negatives", ("top",))),
    "SAM": (HARD, Used("margin negatives warmup_steps", "alone", (False,))),
    "MultiLabel": (HARD,),
}

# Files that take the place of an option of `data`.
REPLACED = {
    "min_count": "vocab",
    "num_labels": "labels",
    "num_concepts": "concepts",
    "noise_by": "noise_file",
}

WARMUP = dict.fromkeys(("warmup_steps", "warmup_epochs"), "loss.warmup_steps")


# Sizes are printed only if they are unused: scripts set them for all models alike.
SIZES = {
    "min_count", "num_labels", "num_concepts", "word_dim", "sentence_dim", "num_layers",
    "caption_dim", "caption_word_dim", "hidden",
}  # fmt: skip


def check_applied(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Check that every typed option changes something; print unused sizes.

    The jobs of a sweep share their options, so there all unused options are printed only.

    Raises:
        ValueError: an option has no effect.
    """
    lines = {**unused_options(cfg, typed), **_unread(cfg, typed)}
    refused = [line for name, line in lines.items() if name.rpartition(".")[2] not in SIZES]
    if refused and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ValueError("; ".join(refused))
    for line in lines.values():
        say(line)


def unused_options(cfg: DictConfig, typed: Sequence[str]) -> dict[str, str]:
    """Find the typed options that change nothing: name -> a line that says why.

    Options with their default value, and a warm-up of 0, are left out.
    """
    found, lines = dict(_unused(cfg)), dict[str, str]()
    default: DictConfig | None = None
    for name in dict.fromkeys(key_of(option) for option in typed if option[0] != "~"):
        # Values at the top level, such as margin, are those of options of a group.
        full = name if name in found else {**SHARED, **WARMUP}.get(name, name)
        value = OmegaConf.select(cfg, name)
        if full not in found or (name in WARMUP and not value):
            continue
        default = _same_choices(typed) if default is None else default
        if OmegaConf.select(default, name) != value:
            lines[name] = f"{name}={as_typed(value)} has no effect{found[full]}"
    return lines


def _unread(cfg: DictConfig, typed: Sequence[str]) -> dict[str, str]:
    """Find options that + adds at the top level, where nothing reads them."""
    added = {key_of(x): x for x in typed if x[0] == "+" and "." not in key_of(x)}
    if not added:
        return {}
    text, known = OmegaConf.to_yaml(cfg), {*HydraConfig.get().runtime.choices, *_same_choices([])}
    return {
        key: f"{option} has no effect: itm.train has no option of this name (--help lists them)"
        for key, option in added.items()
        if key not in known and not re.search(rf"\$\{{{re.escape(key)}\b", text)
    }


def _same_choices(typed: Sequence[str]) -> DictConfig:
    """Compose the same choices of groups without any other option."""
    groups = [option for option in typed if key_of(option) in default_choices()]
    try:
        return compose(rewrite_choices(groups))
    except (HydraException, OmegaConfBaseException):
        return OmegaConf.create()  # choices from a folder of the user


def needs_of(*targets: Any) -> list[str]:
    """List what model and loss read in a batch; a plain function declares nothing."""
    from itm.data.options import NEEDS  # late, like all that imports torch

    return [what for what in NEEDS if any(getattr(x, f"needs_{what}", False) for x in targets)]


def _unused(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """List the options that these choices do not use: (full name, why)."""
    model, loss = target(cfg.model), target(cfg.loss)
    text = cfg.model.get("text") or {}
    needs = needs_of(model, loss)
    yield from _unused_data(cfg.data, text.get("name"), needs)
    yield from _unused_warmup(cfg.loss)
    if _is_ours(loss):
        yield from _unmet(cfg.loss, "loss", LOSSES.get(loss.__name__, ()))
    if _is_ours(model):
        yield from _unmet(cfg.model, "model", MODELS.get(model.__name__, ()))
        yield from _unmet(cfg.model, "model", _text_rules(cfg.model))
        if text.get("name") in ("gru", "vectors"):
            for key in [key for key in text if key != "name"]:
                yield f"model.text.{key}", f": text={text['name']} has no such option"
    if _is_ours(loss) and _is_ours(model):
        yield from _unused_together(cfg.model, model.__name__, loss.__name__)


def _unused_data(
    data: DictConfig, text: str | None, needs: Collection[str]
) -> Iterator[tuple[str, str]]:
    for option, file in REPLACED.items():
        if data.get(file) is not None:
            yield f"data.{option}", f": data.{file}={data[file]} is read instead"
    if text == "bert":
        own = ": text=bert reads the word pieces of its own transformer"
        yield "data.min_count", own
        if not needs:
            yield "data.tokenizer", own
    if text == "vectors":
        yield "data.max_unknown", ": text=vectors reads vectors of whole sentences"
    else:
        yield "data.vectors", ": sentence vectors are read with text=vectors only"
    for what in ("labels", "concepts"):
        if what not in needs:
            for option in (what, f"num_{what}"):
                yield f"data.{option}", f": neither model nor loss reads {what}"
    if all(data.get(file) is None for file in ("vocab", "labels", "concepts")):
        yield "data.other_captions", ": no data.vocab, data.labels or data.concepts is given"
    if not data.get("noise_ratio") and data.get("noise_file") is None:
        yield "data.noise_by", " without data.noise_ratio"


def _unused_warmup(loss: DictConfig) -> Iterator[tuple[str, str]]:
    """List the values at the top level that a loss does not refer to."""
    for name in WARMUP:
        if "warmup_steps" not in loss:
            yield name, f": {loss._target_.rpartition('.')[2]} has no warm-up"
        elif not OmegaConf.is_interpolation(loss, "warmup_steps"):
            yield name, f", because loss.warmup_steps={loss.warmup_steps} is set on its own"


def _text_rules(model: DictConfig) -> tuple[Used, ...]:
    """List which text encoders use the sizes of a model; two-branch networks take more of them."""
    tuned = Used("text.lr_scale", "text.finetune")
    if "sentence_dim" not in model:
        return tuned, Used("word_dim num_layers bidirectional", "text.name", ("gru",))
    words = Used("word_dim", "text.name", ("gru", "mean", "attend"))
    return tuned, words, Used("sentence_dim", "text.name", ("gru", "bert", "vectors"))


def _unmet(node: DictConfig, group: str, rules: Sequence[Used]) -> Iterator[tuple[str, str]]:
    for options, deciders, values in rules:
        given = {key: OmegaConf.select(node, key) for key in deciders.split()}
        if any(value in values if values else value for value in given.values()):
            continue
        states = [f"{group}.{key}={as_typed(value)}" for key, value in given.items()]
        why = f" with {', '.join(states)}".replace("model.text.name=", "text=")
        if values and isinstance(values[0], str):
            why += f": it needs {alternatives(values)}"
        for option in options.split():
            yield f"{group}.{option}", why


def _unused_together(model: DictConfig, name: str, loss: str) -> Iterator[tuple[str, str]]:
    """List options of a loss that do nothing for this model."""
    if loss == "MultiLabel" and name == "CASC":
        for option in ("weight", "hidden", "pos_weight"):
            own = "label_weight" if option == "weight" else option
            yield f"loss.{option}", f": CASC has its own label loss, so set model.{own}"
    if loss == "PCMEPP" and not model.get("probabilistic"):
        for option in ("distance", "vib_beta"):
            yield f"loss.{option}", ": the model has no variances (model.probabilistic=true)"


def _is_ours(made: Any) -> bool:
    """Tell whether a class is one of the library; others may use the same names otherwise."""
    return f"{getattr(made, '__module__', '')}.".startswith("itm.")


def tell_unused_protocol(cfg: DictConfig, typed: Sequence[str]) -> None:
    """Report that data.protocol has no effect if data.limit cuts the test split."""
    names = {key_of(option) for option in typed}
    limit, protocol = cfg.data.get("limit"), cfg.data.get("protocol")
    if "data.protocol" in names and limit is not None and protocol != "full":
        say(
            f"data.protocol={protocol} has no effect: data.limit={limit} cuts the test split, "
            "which is scored by protocol full"
        )
