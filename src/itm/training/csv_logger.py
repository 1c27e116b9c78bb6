"""Log to metrics.csv, which a resumed run continues."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

from itm.training.lightning_private import KeepingWriter, use_writer
from itm.utils.files import write_text


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
        if self.resume:
            use_writer(self, _Continued)
        return super().experiment


class _Continued(KeepingWriter):
    """Join earlier rows with the first new ones, then append as usual."""

    def __init__(self, log_dir: str):
        super().__init__(log_dir)
        path = Path(self.metrics_file_path)
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row off
        self.earlier = list(csv.DictReader(io.StringIO(whole)))

    def save(self) -> None:
        """Write the rows logged since the last call."""
        if self.metrics and self.earlier:
            first = self.metrics[0]["step"]
            again = [set(row) for row in self.metrics if row["step"] == first]
            self._write([row for row in self.earlier if self._is_before(row, first, again)])
            self.earlier = []
        super().save()

    @staticmethod
    def _is_before(row: dict[str, str], step: float, again: list[set[str]]) -> bool:
        """Tell whether an earlier row precedes everything that is logged again from `step` on."""
        columns = {name for name, value in row.items() if value}
        return int(row["step"]) < step or (int(row["step"]) == step and columns not in again)

    def _write(self, rows: list[dict[str, str]]) -> None:
        self.metrics_keys = list(rows[0]) if rows else []
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics_file_path, out.getvalue())
