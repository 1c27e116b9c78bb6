"""Show where the time of a run goes: Lightning's profilers with reports that fit a terminal."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

ROWS = 15


class ShortProfiler(SimpleProfiler):
    """Lightning's simple profiler, with the longest actions in lines of less than 80 characters."""

    def summary(self) -> str:
        """Tabulate the longest actions, the longest first."""
        rows, calls, seconds = self._make_report_extended()
        stage = getattr(self._stage, "value", self._stage) or "run"
        lines = [
            f"{stage}: {seconds:.1f} s, {calls} calls; the longest actions, some of "
            "which contain others:",
            "  seconds  share   calls  action",
        ]
        for action, _, count, total, share in rows[:ROWS]:
            name = re.sub(r"\{.*\}", "", action)  # arguments of a callback
            lines.append(f"{total:9.3f} {share:4.0f} % {count:7}  {name[:52]}")
        return "\n".join(lines) + "\n"

    def describe(self) -> None:
        """Print the table, and count the next stage from zero."""
        super().describe()
        self.recorded_durations.clear()
        self.start_time = time.perf_counter()


def profiler(name: Any, folder: Path) -> Any:
    """Return the profiler of `trainer.profiler`.

    Args:
        name: "simple" prints a short table, "advanced" writes profile.txt files; other values go to
            Lightning as they are.
        folder: folder of the run.
    """
    if name == "simple":
        return ShortProfiler()
    if name == "advanced":
        return AdvancedProfiler(dirpath=folder, filename="profile")
    return name
