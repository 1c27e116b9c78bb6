"""Share a matcher as a folder with a model card, or on the Hugging Face hub.

huggingface_hub transfers the files and renders the card. `Matcher` does not extend its
`PyTorchModelHubMixin`, because the mixin reads pickled weights, ignores weights that do not fit,
and looks on the hub for every path that is not a folder, such as a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import itm
from itm.matcher.model_card import make_card
from itm.matcher.protocol import MatcherLike
from itm.matcher.saved import read, save
from itm.matcher.weight_identity import same_weights
from itm.utils.log_files import say
from itm.utils.private_paths import replace_paths

FILES = [
    "config.json",
    "model.safetensors",
    "vocab.json",
    "results.json",
]  # nothing else is fetched

M = TypeVar("M")


def save_pretrained(
    matcher: MatcherLike, folder: str | Path, card: str = "", overwrite: bool = True
) -> Path:
    """Write model.safetensors, config.json, vocab.json, results.json and README.md.

    Args:
        matcher: any matcher; its `record` is written to results.json, unless it is empty or the
            weights have changed since the matcher was loaded.
        folder: created if missing. A matcher that was saved there before is replaced as a whole.
        card: text of README.md; by default it describes the matcher and its results.
        overwrite: replace a saved matcher.

    Returns:
        The folder.

    Raises:
        TakenError: the folder holds files with these names that are not of a saved matcher,
            or, without `overwrite`, a saved matcher.
        OSError: the folder cannot be written.
    """
    record = public(matcher.record)
    if record and matcher.recorded is not None and not same_weights(matcher, matcher.recorded):
        say(
            f"{folder}: the results of the loaded matcher are left out, because its weights have "
            "changed since"
        )
        record = {}
    return save(matcher, folder, card or make_card(matcher, record), record, overwrite)


def push_to_hub(
    matcher: MatcherLike,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    card: str = "",
) -> str:
    """Upload what `save_pretrained` writes.

    Args:
        matcher: any matcher.
        repo_id: "user/name"; created if missing.
        private: visibility of a new repository; None = the account's default.
        revision: branch, created if missing; None = main.
        token: access token; None = the one that `hf auth login` stored.
        card: as in `save_pretrained`.

    Returns:
        The address of the commit, whose hash `from_pretrained(revision=...)` accepts.
    """
    from huggingface_hub import HfApi  # late: only sharing needs it

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with TemporaryDirectory() as folder:
        save_pretrained(matcher, folder, card)
        return str(
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                revision=revision,
                delete_patterns=[*FILES, "README.md"],  # of an earlier matcher, if not written anew
                commit_message=f"Upload {type(matcher).__name__}",
            )
        )


class Pretrained:
    """Let a class read what it saved; type checkers know that the result is of this class."""

    @classmethod
    def load_from_checkpoint(cls: type[M], checkpoint_path: Any, **arguments: Any) -> M:
        """Load a checkpoint of this class, as Lightning does, but tensors and plain data only.

        Args:
            checkpoint_path: path, address or open file.
            **arguments: Lightning's (`map_location`, `strict`, ...), and arguments of the
                constructor that replace the saved ones, such as `loss`.

        Raises:
            ValueError: the checkpoint holds another class.
            pickle.UnpicklingError: it holds more than tensors and plain data, and
                `weights_only=False` is not given.
        """
        # By default, Lightning unpickles anything from an address, and torch before 2.6, or with
        # an environment variable, from any file.
        if arguments.get("weights_only") is None:
            arguments["weights_only"] = True
        load: Any = super().load_from_checkpoint  # type: ignore[misc]  # of LightningModule
        try:
            return load(checkpoint_path, **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            name = _class_name(checkpoint_path)
            if name is None or name == cls.__name__:
                raise
            known = ", or itm.load, which finds the class" if name in itm.models.__all__ else ""
            raise ValueError(
                f"{checkpoint_path} holds a {name}, not a {cls.__name__}: use "
                f"{name}.load_from_checkpoint{known}"
            ) from error

    @classmethod
    def from_pretrained(
        cls: type[M],
        name: str | Path,
        revision: str | None = None,
        token: str | None = None,
        loss: Any = None,
        device: str = "cpu",
    ) -> M:
        """Load a matcher in eval mode from a folder, a run, a checkpoint or the hub.

        `Matcher.from_pretrained` accepts any model of the library, `SCAN.from_pretrained` only a
        SCAN, and your own class what it saved. Names in downloaded files are looked up among these
        classes, never imported, and nothing is unpickled.

        Args:
            name: a path, or "user/name" on the hub if this path does not exist.
            revision: branch, tag or commit on the hub. Only a commit's hash always gives the same
                files.
            token: access token for private repositories.
            loss: a loss object, for further training.
            device: device of the matcher; "auto" = the GPU if there is one.

        Raises:
            ValueError: another kind of matcher, or files that do not fit together.
            OSError: no such repository, or no connection.
        """
        path = Path(name).expanduser()
        if not path.exists():
            from huggingface_hub import snapshot_download  # late: only sharing needs it

            path = Path(
                snapshot_download(str(name), revision=revision, token=token, allow_patterns=FILES)
            )
        own = not cls.__module__.startswith("itm.")
        # Through the lazy root package, since the models are in a layer above this module.
        given: Any = cls if own else None
        matcher = itm.load(path, loss=loss, model_class=given, device=device)
        if not isinstance(matcher, cls):
            raise ValueError(f"{name} holds a {type(matcher).__name__}, not a {cls.__name__}")
        return matcher


def _class_name(path: Any) -> str | None:
    """Return the class in a checkpoint; None if it does not say, or cannot be read."""
    try:
        return str(read(path)[0]["class"])
    except Exception:  # the first error says what is wrong
        return None


def public(record: dict[str, Any]) -> dict[str, Any]:
    """Shorten each path in a record to its last part, which reveals nothing about this computer."""
    return {key: _shortened(value) for key, value in record.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return replace_paths(value, lambda scheme, last: last)
    if isinstance(value, dict):
        return public(value)
    return [_shortened(x) for x in value] if isinstance(value, list | tuple) else value
