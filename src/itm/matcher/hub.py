"""Matchers to and from folders and the Hugging Face hub, with a card that tells what they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from itm.checkpoints.folder import load, save

if TYPE_CHECKING:
    from itm.matcher.matcher import Matcher

FILES = ["config.json", "model.safetensors", "vocab.json", "results.json"]  # all that is fetched


class Shared:
    """The methods of a matcher that share it.

    Attributes:
        record: results of the run that made it, its command and versions; empty when unknown. Read
            by `itm.load` from the results.json of a run or of a saved folder.
    """

    record: dict[str, Any] = {}

    def save_pretrained(self, folder: str | Path, card: str = "") -> Path:
        """Write model.safetensors, config.json, vocab.json, results.json and README.md.

        Args:
            folder: made when missing.
            card: text of README.md; by default what is known of the matcher.

        Returns:
            The folder.
        """
        matcher, record = cast("Matcher", self), public(self.record)
        folder = save(matcher, folder, card or make_card(matcher, record))
        if record:
            (folder / "results.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        revision: str | None = None,
        token: str | None = None,
        card: str = "",
    ) -> str:
        """Upload what `save_pretrained` writes.

        Args:
            repo_id: "user/name"; made when missing.
            private: of a new repository; None = the account's default.
            revision: branch, made when missing; None = main.
            token: None = the one that `hf auth login` stored.
            card: as in `save_pretrained`.

        Returns:
            Address of the commit.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, card)
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=revision,
                    commit_message=f"Upload {type(self).__name__}",
                )
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        token: str | None = None,
        loss: Any = None,
        device: str = "cpu",
    ) -> Matcher:
        """A matcher in eval mode from a folder, a run, a checkpoint or the hub.

        `Matcher.from_pretrained` takes any model of the library, `SCAN.from_pretrained` only a
        SCAN; a class of your own reads what it saved. Names in downloaded files are looked up among
        these, never imported, and nothing is unpickled.

        Args:
            name: a path, or "user/name" on the hub where there is no such path.
            revision: branch, tag or commit on the hub.
            token: for private repositories.
            loss: a loss object, for further training.
            device: where to put it.

        Raises:
            ValueError: another kind of matcher, or files that do not fit.
            OSError: no such repository, or no connection.
        """
        import itm.models

        path = Path(name)
        if not path.exists():
            from huggingface_hub import snapshot_download

            path = Path(
                snapshot_download(str(name), revision=revision, token=token, allow_patterns=FILES)
            )
        own = cls.__name__ not in ("Matcher", *itm.models.__all__)
        matcher = load(path, loss, cls if own else None, device)  # type: ignore[arg-type]
        if not isinstance(matcher, cls):
            raise ValueError(f"{name} holds a {type(matcher).__name__}, not a {cls.__name__}")
        return matcher


def public(record: dict[str, Any]) -> dict[str, Any]:
    """A record without the folders of the computer it was made on; their last names stay."""
    short = re.compile(r"(?<![\w./:])[~/][^\s'\",\]]*?([^/\s'\",\]]+)/?(?=$|[\s'\",\]])")
    return {k: short.sub(r"\1", v) if isinstance(v, str) else v for k, v in record.items()}


def make_card(matcher: Matcher, record: dict[str, Any]) -> str:
    """README.md: what the matcher is, how to use it, what it reached and how it was made."""
    from huggingface_hub import ModelCardData

    from itm.runs.tables import RECALLS, markdown_table

    name, sizes = type(matcher).__name__, matcher.hparams
    tags = ["image-text-matching", "image-text-retrieval", "itm-lightning", name.lower()]
    data = ModelCardData(library_name="itm-lightning", tags=tags)
    features = f"{sizes['img_dim']} wide" if "img_dim" in sizes else "of its own width"
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}\n",
        "Scores how well images and sentences match. Images are given as region features "
        f"({features}), from the same extractor that it was trained with.\n",
        "```python\nfrom itm.matcher import Matcher\n\n"
        'matcher = Matcher.from_pretrained("FOLDER_OR_USER/NAME")\n'
        'scores = matcher.score(features, ["a dog on a beach"])  # (images, captions)\n```\n',
    ]
    stage = "test" if "test/rsum" in record else "val"
    numbers = {key for key, value in record.items() if isinstance(value, int | float)}
    known = [key for key in [*RECALLS, "rsum"] if f"{stage}/{key}" in numbers]
    if known:
        facts = {"split": stage, "images": "?", "protocol": "full", "root": "data", **record}
        place = Path(str(facts["root"])).name
        on = f"{facts['split']} of {place}, {facts['images']} images, protocol {facts['protocol']}"
        rows = [[float(record[f"{stage}/{key}"]) for key in known]]
        parts += [f"## Results\n\nOn {on}:\n", markdown_table(known, rows)]
    if "command" in record:
        parts.append(f"## Made by\n\n```bash\n{record['command']}\n```\n")
    versions = record.get("versions")
    if isinstance(versions, dict):
        parts.append(", ".join(f"{package} {v}" for package, v in versions.items()) + "\n")
    return "\n".join(parts)
