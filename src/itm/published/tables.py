"""Tables of names: what an original code base calls its tensors, and what this library calls them.

A table maps names of the original to ours. The name of a layer stands for all its tensors: "fc" ->
"image" renames fc.weight and fc.bias. None drops a layer that the original saves but never uses.
`{}` is the number of a layer; `{+1}` is the same number in a name that counts from one. The first
entry that matches is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

State = dict[str, Tensor]
Options = dict[str, Any]
Table = Mapping[str, str | None]

SIZES = {  # original option -> our argument; the tensors tell these, too
    "vocab_size": "vocab_size",
    "img_dim": "img_dim",
    "word_dim": "word_dim",
    "embed_size": "embed_dim",
    "num_layers": "num_layers",
}


class Known(dict[str, Any]):
    """The options of a checkpoint, which remember which were read, and what was assumed.

    Attributes:
        assumed: missing option -> value.
        asked: options that were looked up.
    """

    def __init__(self, options: Options):
        super().__init__(options)
        self.assumed: Options = {}
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an option, or the default without it."""
        self.asked.add(name)
        return super().get(name, default)

    def assume(self, name: str, default: Any) -> Any:
        """Return an option; without it, assume the default of the original's command line.

        Raises:
            ValueError: it has another type than the default.
        """
        if name not in self:
            self.assumed[name] = default
            return default
        return self.need(name, default)

    def require(self, *names: str) -> None:
        """Check that options are known which neither tensors nor defaults tell.

        Raises:
            KeyError: some are missing; its arguments are their names.
        """
        if missing := [name for name in names if name not in self]:
            raise KeyError(*missing)

    def need(self, name: str, like: Any = False) -> Any:
        """Return an option of the type of `like`.

        Raises:
            KeyError: the option is missing.
            ValueError: it has another type.
        """
        value, default = self[name], like
        kinds = {bool: (bool, int), float: (float, int), str: (str,)}[type(default)]
        wrong = not isinstance(value, kinds) or (type(default) is bool and value not in (0, 1))
        if wrong or (type(default) is float and isinstance(value, bool)):
            raise ValueError(
                f"the option {name} must be of type {type(default).__name__}, such as {default!r}, "
                f"got {value!r}"
            )
        return bool(value) if isinstance(default, bool) else value


def read_state(state: State, table: Table, prefix: str = "") -> State:
    """Rename the tensors of a state dict to our names.

    Args:
        state: the original's tensors.
        table: their names.
        prefix: put before names that the table lacks, which are kept so that loading reports them.
    """
    found = {}
    for name, value in state.items():
        for theirs, ours in table.items():
            renamed = _rename(name, theirs, ours or "")
            if renamed is not None:
                break
        else:
            ours = renamed = prefix + name
        if ours is not None and renamed in found:
            raise ValueError(f"two tensors of the original, one of them {name}, are {renamed} here")
        if ours is not None:
            found[renamed] = value
    return found


def write_state(tensors: State, table: Table) -> State:
    """Select our tensors that are in the table, under the original's names."""
    renamed = original_names(tensors, table)
    return {theirs: tensors[ours].detach().cpu() for ours, theirs in renamed.items()}


def original_names(tensors: Iterable[str], table: Table) -> dict[str, str]:
    """Map our names to the original's; names without an entry in the table are left out."""
    found: dict[str, str] = {}
    for name in tensors:
        for theirs, ours in table.items():
            renamed = None if ours is None else _rename(name, ours, theirs)
            if renamed is not None:
                found.setdefault(name, renamed)
    return found


def stated(arguments: Options, names: Mapping[str, str]) -> Options:
    """Return our arguments under the original's names, given as theirs -> ours."""
    return {theirs: arguments[ours] for theirs, ours in names.items()}


def gru_arguments(text: State, rnn: str = "rnn") -> Options:
    """Find sizes, layers and directions of a word embedding and a GRU in their tensors."""
    vocab_size, word_dim = text["embed.weight"].shape
    return {
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "num_layers": sum(bool(re.fullmatch(rf"{rnn}\.weight_ih_l\d+", name)) for name in text),
        "bidirectional": f"{rnn}.weight_ih_l0_reverse" in text,
    }


def two_way_gru(text: State, system: str) -> Options:
    """Return `gru_arguments` of a system whose GRU always has two directions.

    Raises:
        ValueError: the GRU has one direction.
    """
    arguments = gru_arguments(text)
    if not arguments.pop("bidirectional"):
        raise ValueError(
            f"weights of {system} with a GRU of one direction; the original always has two"
        )
    return arguments


def check_stated(options: Options, name: str, form: str) -> None:
    """Compare an option, if it was saved, with the form that the tensors have.

    Raises:
        ValueError: they differ.
    """
    given = options.get(name)
    if given not in (None, form):
        raise ValueError(
            f"its options say {name}={given}, its tensors {form}: tensors are missing, or these "
            "are the options of other weights"
        )


def _rename(name: str, old: str, new: str) -> str | None:
    """Replace the layer `old` at the beginning of a name; return None for another layer."""
    pattern = re.escape(old).replace(r"\{\}", r"(?P<zero>\d+)").replace(r"\{\+1\}", r"(?P<one>\d+)")
    found = re.fullmatch(rf"{pattern}(?P<leaf>\..*)?", name)
    if found is None:
        return None
    groups = found.groupdict()
    if "zero" in groups or "one" in groups:
        k = int(groups["zero"]) if "zero" in groups else int(groups["one"]) - 1
        new = new.replace("{+1}", str(k + 1)).replace("{}", str(k))
    return new + (found["leaf"] or "")
