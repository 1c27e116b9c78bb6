"""Find a model of transformers before anything loads it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path


def check_hub_name(
    option: str, name: str, revision: str | None = None, others: Iterable[str] = ()
) -> None:
    """Check that a model is a folder, in the cache of the hub, or on the hub.

    transformers would repeat its question to the hub for half a minute without saying so.

    Args:
        option: name of the option, for messages.
        name: folder or hub name.
        revision: commit on the hub; None = the newest.
        others: further names that the option accepts; suggested like the cached ones.

    Raises:
        ValueError: the model is neither here nor on the hub, or the hub cannot be reached.
    """
    # Late, because most matchers need no transformer.
    from huggingface_hub import HfApi, try_to_load_from_cache

    if Path(name).is_dir():
        return
    if not _is_hub_name(name):
        raise ValueError(
            f"{option}={name} is neither a folder nor a hub name such as user/model"
            f"{suggestion(name, others)}"
        )
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # errors of the hub, of its HTTP library, and of the system
        kind = type(error).__name__
        why = "the Hugging Face hub cannot be reached, and its cache here lacks the model"
        if kind in ("RepositoryNotFoundError", "RevisionNotFoundError"):
            why = "the Hugging Face hub has no such model" + (f" at {revision}" if revision else "")
        elif kind == "OfflineModeIsEnabled":
            why = "the cache of the Hugging Face hub lacks the model, and HF_HUB_OFFLINE is set"
        hint = suggestion(name, others)
        raise ValueError(f"{option}={name}: there is no such folder; {why}{hint}") from None


def _is_hub_name(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError  # late, as above
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def suggestion(name: str, others: Iterable[str]) -> str:
    """Suggest near names among other choices and the models in the cache of the hub.

    Returns:
        "; did you mean a or b?", or "" without near names.
    """
    from huggingface_hub import scan_cache_dir  # late, as above
    from huggingface_hub.errors import CacheNotFound

    known = [other for other in others if other != name]
    with suppress(CacheNotFound):
        cached = (r.repo_id for r in scan_cache_dir().repos if r.repo_type == "model")
        known += sorted(x for x in cached if x != name)
    near = get_close_matches(name, known, n=3, cutoff=0.6)
    short = {full.rpartition("/")[2]: full for full in reversed(known)}
    near += [short[x] for x in get_close_matches(name.rpartition("/")[2], short, n=3, cutoff=0.7)]
    return f"; did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?" if near else ""
