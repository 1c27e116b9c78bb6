"""Print a table of speed and memory beside plainly written code that gives the same numbers.

    python -m benchmarks                        # sizes of the papers, about 15 minutes
    python -m benchmarks size=small             # 2 minutes
    python -m benchmarks only=scan,ranks
    python -m benchmarks out=benchmarks/RESULTS.md
    python -m benchmarks jobs=2                 # two parts at a time; each gets a little slower

Each part runs in a separate process with one thread; a part that fails does not stop the others.
`python -m benchmarks.gpu` measures on a GPU.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS = (
    "scan", "chan", "vse", "casc", "sgraf", "cvse", "vsrn", "two_branch", "narrow",
    "ranks", "cider", "search", "loader", "evaluation",
    "saving", "startup", "growth",
)  # fmt: skip
COLUMNS = [
    "part", "task", "seconds", "x its products", "compared with", "seconds there", "faster",
    "memory", "of theirs", "difference", "target", "",
]  # fmt: skip
THREADS = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
DEFAULTS = {"size": "paper", "only": "", "out": "", "jobs": "1", "part": ""}


def main() -> None:
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if unknown := options.keys() - DEFAULTS.keys():
        raise SystemExit(
            f"unknown {', '.join(unknown)}; the options are size=, only=, out= and jobs=\n{__doc__}"
        )
    options = {**DEFAULTS, **options}
    if options["size"] not in ("tiny", "small", "paper"):
        raise SystemExit(
            f"size must be small or paper, got {options['size']} (tiny only shows that it runs)"
        )
    if options["part"]:
        measure(options["part"], options["size"])
        return
    chosen = options["only"].split(",") if options["only"] else PARTS
    if wrong := set(chosen) - set(PARTS):
        raise SystemExit(f"only= takes {', '.join(PARTS)}; got {', '.join(wrong)}")
    started = time.time()
    table, failed, done = [], [], []
    with ThreadPoolExecutor(int(options["jobs"])) as pool:
        found = pool.map(lambda part: run(part, options["size"]), chosen)
        for part, (lines, code) in zip(chosen, found, strict=True):
            table += lines
            failed += [part] if code else []
            done.append(part)
            facts = describe(options, started)
            if options["out"]:  # after each part, so that an interrupted run keeps its results
                write(Path(options["out"]), facts, table, failed, set(PARTS) - set(done))
    show(facts, table)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def measure(part: str, size: str) -> None:
    """Run a part in this process and print one line of JSON per row."""
    import torch

    torch.set_num_threads(1)
    for row in import_module(f"benchmarks.{part}").rows(size):
        print(json.dumps(cells(part, row)), flush=True)
    peak = max(
        resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(
        json.dumps([part, "whole part, peak resident size", *[""] * 5, mib(peak << 10), *[""] * 4])
    )


def run(part: str, size: str) -> tuple[list[list[str]], int]:
    """Run a part in a new process; return its rows and its exit code."""
    command = [sys.executable, "-m", "benchmarks", f"part={part}", f"size={size}"]
    root = Path(__file__).parents[1]
    lines = []
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, **THREADS}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            print(*(cell for cell in lines[-1] if cell), sep="  ", flush=True)
    return lines, process.returncode


def cells(part: str, row: Any) -> list[str]:
    """Format a row as text."""
    found = row.reached
    targets = []
    for name, wanted in row.targets.items():
        least, value = name == "speed", found[name]
        held = value >= wanted if least else value <= wanted
        shown = mib(int(wanted)) if name == "bytes" else f"{wanted:.3g}"
        targets.append(f"{name} {'>=' if least else '<='} {shown} {'yes' if held else 'NO'}")
    return [
        part,
        row.task,
        seconds(row.seconds),
        f"{found['product']:.2f}" if "product" in found else "",
        row.against,
        "" if row.plain is None else seconds(row.plain),
        f"{found['speed']:,.2f} x" if "speed" in found else "",
        "" if row.bytes is None else mib(row.bytes),
        f"{100 * found['memory']:.0f} %" if "memory" in found else "",
        "" if row.difference is None else f"{row.difference:.0e}",
        "; ".join(targets),
        row.note,
    ]


def seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def mib(value: int) -> str:
    return f"{value / 2**20:,.0f} MiB"


def describe(options: dict[str, str], started: float) -> list[str]:
    """Describe machine, versions and date."""
    from importlib.metadata import version

    cpu = next(
        (line.partition(":")[2].strip() for line in read("/proc/cpuinfo") if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "itm-lightning"))
    return [
        f"{cpu}, {os.cpu_count()} cores; one thread a part, "
        f"jobs={options['jobs']}; load {os.getloadavg()[0]:.1f}",
        f"python {platform.python_version()}, {versions}",
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(started))} UTC, size={options['size']}, "
        f"{(time.time() - started) / 60:.1f} minutes",
    ]


def read(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def show(facts: list[str], table: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    view = Table(*COLUMNS, title="\n".join(facts))
    last = ""
    for part, *rest in table:
        if part != last:
            view.add_section()
        view.add_row(part if part != last else "", *rest)
        last = part
    Console(width=max(180, Console().width)).print(view)


def write(
    path: Path, facts: list[str], table: list[list[str]], failed: list[str], missing: set[str]
) -> None:
    from itm.runs.tables import markdown_table

    text = [
        "# Speed and memory",
        "",
        "Written by `python -m benchmarks out=benchmarks/RESULTS.md`.",
        "",
    ]
    text += [f"- {fact}" for fact in facts]
    text += [f"- failed: {', '.join(failed)}"] if failed else []
    text += [f"- not measured: {', '.join(sorted(missing))}"] if missing else []
    text += ["", EXPLANATION, "", markdown_table(COLUMNS, table)]
    path.write_text("\n".join(text).rstrip() + "\n")


EXPLANATION = """\
Seconds are processor seconds of one thread (for the loader: wall time). "x its products" divides
them by the time of the matrix products: for SCAN's similarity, of the product of all regions with
all words, measured alone; elsewhere, of the products inside the computation. "Faster" compares
with plainly written code that gives the same numbers, which the command checks; "difference" is
the largest difference between them, relative to the largest number if that is above 1. Memory is
the peak of a run minus its inputs; "of theirs" compares it with the plain code."""


if __name__ == "__main__":
    main()
