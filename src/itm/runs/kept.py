"""Keep small records of runs: results, settings and ranks, without checkpoints and logs.

A record is a folder that `itm.runs.history.find_runs` reads like the run itself: results.json,
settings.yaml (the resolved configuration) and ranks.npz, about 13 KB together for 5,000 captions.
Folders of the machine are left out: the path in data.root becomes DIR.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from itm.runs.history import Run
from itm.runs.plain_files import CONFIGURATION, read_record
from itm.runs.record import write_results
from itm.runs.run_files import CHANGES, SETTINGS, read_ranks
from itm.utils.errors import TakenError
from itm.utils.files import replacing, write_text
from itm.utils.folders import replacing_folder
from itm.utils.manifest import KEY
from itm.utils.private_paths import replace_paths

RANKS, RESULTS = "ranks.npz", "results.json"
KINDS = (np.int8, np.int16, np.int32, np.int64)
# In report.json, what is not of one row.
OF_ALL_ROWS = ("results", "checkpoints", "members", "reranked", "captioning", "weights")


def keep_record(run: Run, folder: Path) -> None:
    """Write the record of a run as a whole; an earlier record of the run adds its metrics.

    Args:
        run: a run that `can_keep` accepts.
        folder: of the record; created if missing.

    Raises:
        TakenError: the folder holds the record of another run, or other files of these names.
    """
    record = _record(run, folder)
    ranks = read_ranks(folder / RANKS) if run.ranks is None else run.ranks
    settings = {key: _plain(value) for key, value in run.settings.items()}
    if CHANGES in settings:
        settings[CHANGES] = shown_path(settings[CHANGES])
    text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True, width=1000)
    with replacing_folder(folder, RESULTS, (SETTINGS, RANKS), lambda _: True) as place:
        write_text(place / SETTINGS, text)
        if ranks is not None:
            write_small_ranks(place / RANKS, ranks)
        write_results(place, record)


def _record(run: Run, folder: Path) -> dict[str, Any]:
    """Collect results.json of a record, with the metrics of an earlier record of the run.

    Raises:
        TakenError: the folder holds the record of another run.
    """
    record = _facts(run)
    stage = "test" if run.members or "test/rsum" in record else "val"
    record |= {f"{stage}/{name}": value for name, value in run.metrics.items()}
    record |= {"relevance": run.relevance} if run.relevance else {}
    path = folder / RESULTS
    if not path.is_file():
        return record
    earlier = read_record(path)
    for key in ("command", "started"):
        if earlier.get(key) != record.get(key):
            raise TakenError(
                f"{folder} holds the record of another run ({key} {earlier.get(key)}, not "
                f"{record.get(key)}): give another keep=, or remove it"
            )
    known = earlier.get("relevance")
    before: dict[str, Any] = known if isinstance(known, dict) else {}
    for kind in before.keys() & run.relevance.keys():
        if before[kind] != run.relevance[kind]:
            raise TakenError(
                f"{folder} holds graded metrics measured with {before[kind]}, not with "
                f"{run.relevance[kind]}: give another keep=, or remove it"
            )
    merged = earlier | record
    return merged | {"relevance": before | run.relevance} if before or run.relevance else merged


def keep_records(records: Mapping[Path, Run]) -> None:
    """Write the records that `plan_records` planned."""
    for folder, run in records.items():
        keep_record(run, folder)


def plan_records(runs: Sequence[Run], folder: Path) -> dict[Path, Run]:
    """Plan a record of every training run, and of ensembles that the validation chose.

    Nothing is written. If two records would have the same name, such as job 0 of two sweeps, all
    names begin with as many folders above as keep them apart: sweep_a/0, sweep_b/0.

    Returns:
        Folder of each record -> the run.

    Raises:
        TakenError: a folder holds the record of another run.
        ValueError: no names keep two results apart, such as an ensemble on two test splits.
    """
    kept = [run for run in runs if can_keep(run)]
    deepest = max((len(run.folder.resolve().parts) for run in kept), default=0)
    for above in range(deepest + 1):
        names = [record_name(run, above) for run in kept]
        if len(set(names)) == len(names):
            break
    else:
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two results have the record {folder / name}: keep them in two calls")
    records = {folder / name: run for name, run in zip(names, kept, strict=True)}
    for place, run in records.items():
        _record(run, place)
    return records


def can_keep(run: Run) -> bool:
    """Tell whether a run can be recorded: a training, or an ensemble that a validation chose.

    Evaluating several checkpoints at once always measures their ensemble; it is recorded only if it
    was evaluated on the validation split as well.
    """
    if run.members:
        on_validation = run.test.startswith(f"{run.settings.get('data.val')} of ")
        return run.validation is not None and not on_validation
    return bool(run.settings) and (run.folder / "results.json").is_file()


def record_name(run: Run, above: int = 0) -> str:
    """Name the record of a run by its path below the searched folder, or by its members.

    Args:
        run: a run that `can_keep` accepts.
        above: number of folders above to put in front.
    """
    if run.members:
        names = ("_".join(member.resolve().parts[-1 - above :]) for member in run.members)
        return "ensembles/" + "+".join(names)
    place, _, rest = run.name.partition("/")
    name = rest or place
    if not above:
        return name
    parts = run.folder.resolve().parts[1:]
    return "/".join(parts[-name.count("/") - 1 - above :])


def _facts(run: Run) -> dict[str, Any]:
    """Read what the run recorded about itself, without folders of the machine."""
    if run.members:
        report = read_record(run.folder / "report.json")
        names = [member.name for member in run.members]
        facts = {k: v for k, v in report.items() if k not in OF_ALL_ROWS} | {"members": names}
        facts |= {**run.costs, "command": f"python -m itm.evaluate checkpoint=[{','.join(names)}]"}
        if run.validation is not None:
            facts["val/rsum"] = run.validation
    else:
        began = run.folder / "run.json"
        facts = (read_record(began) if began.is_file() else {}) | read_record(
            run.folder / "results.json"
        )
        facts["overrides"] = [shown_path(x) for x in facts.get("overrides", [])]
        if facts.get(CHANGES):
            facts[CHANGES] = [shown_path(str(x)) for x in facts[CHANGES]]
    # Checksums of the run's files, what settings.yaml has, and a folder that the command names.
    for key in (KEY, CONFIGURATION, "config_dir"):
        facts.pop(key, None)
    facts["command"] = shown_path(str(facts.get("command", "")))
    if "root" in facts:
        facts["root"] = Path(facts["root"]).name
    return facts


def shown_path(text: str) -> str:
    """Write DIR for every path in a command, with the name of a file.

    Examples:
        >>> shown_path("data.root=/data/flickr8k data.vocab=/data/vocab.json seed=0")
        'data.root=DIR data.vocab=DIR/vocab.json seed=0'
    """

    def shown(scheme: str, last: str) -> str:
        return f"{scheme}DIR/{last}" if Path(last).suffix else f"{scheme}DIR"

    return replace_paths(text, shown)


def _plain(value: Any) -> Any:
    """Prepare a setting for YAML: lists for tuples, and the last part of each path."""
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return replace_paths(value, lambda scheme, last: last) if isinstance(value, str) else value


def write_small_ranks(path: Path, ranks: dict[str, np.ndarray]) -> None:
    """Write ranks in the fewest bytes: the smallest integers, and the LZMA compression of zip."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, values in ranks.items():
            array, part = np.asarray(values), io.BytesIO()
            low, high = array.min(initial=0), array.max(initial=0)
            fits = (x for x in KINDS if np.iinfo(x).min <= low and high <= np.iinfo(x).max)
            np.save(part, array.astype(next(fits)))
            info = zipfile.ZipInfo(f"{name}.npy")  # its fixed date gives equal runs equal files
            archive.writestr(info, part.getvalue(), zipfile.ZIP_LZMA)
