"""Log to metrics.csv, which a resumed run continues, and keep its checksum in metrics.json."""

from __future__ import annotations

import csv
import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from itm.training.lightning_private import KeepingWriter, use_writer
from itm.utils.files import write_json, write_text
from itm.utils.manifest import checksum
from itm.utils.readers import read_json, reading


class CSVLogger(pl.loggers.CSVLogger):
    """Lightning's CSV logger, except that with `resume` it continues an earlier metrics.csv.

    Args:
        save_dir: run folder.
        name: folder below it.
        version: folder below that.
        resume: continue the metrics.csv of an earlier part of the run; rows that were logged after
            the checkpoint from which the run continues are replaced. Without it an earlier file is
            deleted, as by Lightning.
    """

    def __init__(self, save_dir: str, name: str = "", version: str = "csv", resume: Any = None):
        super().__init__(save_dir, name, version)
        self.resume = bool(resume)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Return the writer of the file."""
        use_writer(self, _Continued if self.resume else _New)
        return super().experiment


class _New(ExperimentWriter):
    """Lightning's writer, which also keeps the checksum."""

    def save(self) -> None:
        """Write the rows logged since the last call."""
        super().save()
        _seal(Path(self.metrics_file_path))


class _Continued(KeepingWriter):
    """Join earlier rows with the first new ones, then append as usual."""

    def __init__(self, log_dir: str):
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        self.earlier = _read(path) if path.is_file() else []

    def save(self) -> None:
        """Write the rows logged since the last call."""
        if self.metrics and self.earlier:
            first = self.metrics[0]["step"]
            again = [set(row) for row in self.metrics if row["step"] == first]
            self._write([row for row in self.earlier if self._is_before(row, first, again)])
            self.earlier = []
        super().save()
        _seal(Path(self.metrics_file_path))

    @staticmethod
    def _is_before(row: dict[str, str], step: float, again: list[set[str]]) -> bool:
        """Tell whether an earlier row precedes everything that is logged again from `step` on.

        A test ends a run, so its row is not part of a run that goes on.
        """
        columns = {name for name, value in row.items() if value}
        if any(name.startswith("test/") for name in columns):
            return False
        return int(row["step"]) < step or (int(row["step"]) == step and columns not in again)

    def _write(self, rows: list[dict[str, str]]) -> None:
        self.metrics_keys = list(rows[0]) if rows else []
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics_file_path, out.getvalue())


def _seal(path: Path) -> None:
    """Write the checksum of metrics.csv, which has none of its own."""
    if path.is_file():
        size = path.stat().st_size
        write_json(path.with_suffix(".json"), {"bytes": size, "crc32": checksum(path)})


def _read(path: Path) -> list[dict[str, str]]:
    """Read the rows of an earlier part of the run; warn if they do not fit their checksum.

    Raises:
        ValueError: the file does not hold rows with a step.
    """
    data = path.read_bytes()
    if path.with_suffix(".json").is_file():
        facts = read_json(path.with_suffix(".json"))
        size = facts.get("bytes")  # a kill may have come between a row and its checksum
        whole = type(size) is int and f"{zlib.crc32(data[:size]):08x}" == facts.get("crc32")
        if not whole or len(data) < size:
            warnings.warn(
                f"{path} is damaged or was edited: its checksum differs; the curves of this run "
                "may be wrong before the step from which it continues",
                stacklevel=2,
            )
    with reading(path, "does not hold the curves of a run; remove it to go on without them"):
        text = data[: data.rfind(b"\n") + 1].decode("utf-8")  # a kill may have cut the last row off
        rows = list(csv.DictReader(io.StringIO(text)))
        for row in rows:
            int(row["step"])
        return rows
