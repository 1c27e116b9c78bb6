"""Measure on a GPU: evaluation at COCO 5K's size, training pairs per second, waits for the host.

    python -m benchmarks.gpu                            # COCO 5K, batches of 128 (a minute or two)
    python -m benchmarks.gpu device=cpu size=tiny       # check that everything runs
    python -m benchmarks.gpu only=training compile=true

Seconds are wall time of the second run, after the device has finished. "waits" counts how often a
training step reads a value from the device (torch.cuda.set_sync_debug_mode); each read empties its
queue.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import captions_of, images_of, lengths_of
from itm.batch import Encoded, Pairs
from itm.losses import Triplet
from itm.matcher.blocks import similarity_matrix
from itm.matcher.matcher import Matcher
from itm.models import CASC, CVSE, SCAN, SGRAF, VSRN

VOCAB = 10_000
SIZES = {  # images of the similarity, batch, regions, feature width, D
    "tiny": (6, 4, 36, 8, 16),
    "paper": (5000, 128, 36, 2048, 1024),
}
DEFAULTS = {"device": "cuda", "size": "paper", "only": "similarity,training", "compile": "false"}
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    options = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
    if options.keys() - DEFAULTS.keys() or options.get("size", "tiny") not in SIZES:
        raise SystemExit(__doc__)
    options = {**DEFAULTS, **options}
    device = torch.device(options["device"])
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    title = f"{name}, torch {torch.__version__}, size={options['size']}"
    table = Table("task", "precision", "seconds", "rate", "memory", "waits", title=title)
    parts = {"similarity": similarities, "training": trainings}
    for part in options["only"].split(","):
        for row in parts[part](device, options["size"], options["compile"] == "true"):
            print(*row, sep="  ", flush=True)
            table.add_row(*row)
    Console(width=120).print(table)


def matchers(features: int, width: int) -> dict[str, Callable[[], Matcher]]:
    sizes = {"vocab_size": VOCAB, "img_dim": features, "embed_dim": width, "loss": Triplet()}
    return {
        "SCAN t2i": lambda: SCAN(**sizes),
        "SCAN i2t": lambda: SCAN(**sizes, direction="i2t", aggregation="LogSumExp"),
        "SGR": lambda: SGRAF(**sizes),
        "SAF": lambda: SGRAF(**sizes, module="SAF"),
        "CASC": lambda: CASC(**sizes),
        "CVSE": lambda: CVSE(**sizes),
        "VSRN": lambda: VSRN(**{**sizes, "embed_dim": 2 * width}),
    }


def similarities(device: torch.device, size: str, compiled: bool) -> Iterator[list[str]]:
    """Score the whole matrix from encodings on the device."""
    images, _, regions, features, width = SIZES[size]
    lengths = torch.tensor(sorted(lengths_of(5 * images)))
    sides = random_sides(images, lengths, regions, width, device)
    for name in ("SCAN t2i", "SCAN i2t", "SGR", "SAF"):
        matcher = matchers(features, width)[name]().to(device).eval()
        if compiled:
            matcher.compile()
        for precision, dtype in PRECISIONS.items():

            def run(matcher=matcher, sides=sides, dtype=dtype):
                with torch.no_grad(), autocast(device, dtype):
                    similarity_matrix(
                        matcher.similarity, *sides, matcher.pair_floats, device, 8 << 30
                    )

            seconds, memory = measured(run, device)
            rate = f"{5 * images**2 / seconds / 1e6:,.2f} M pairs/s"
            task = f"{name} similarity {images} x {5 * images}"
            yield [task, precision, f"{seconds:.3g}", rate, memory, ""]


def random_sides(images, lengths, regions, width, device):
    """Make chunks of encodings as evaluation keeps them: unit vectors in float32."""

    def unit(*shape):
        x = torch.randn(*shape, device=device)
        return torch.nn.functional.normalize(x, dim=-1)

    side, texts = [], []
    for rows in torch.arange(images).split(256):
        real = torch.ones(len(rows), regions, dtype=torch.bool, device=device)
        side.append((Encoded(unit(len(rows), width), unit(len(rows), regions, width), real), rows))
    for rows in torch.arange(len(lengths)).split(256):
        own = lengths[rows]
        mask = (torch.arange(int(own.max())) < own[:, None]).to(device)
        words = unit(*mask.shape, width) * mask[..., None]
        texts.append((Encoded(unit(len(rows), width), words, mask, {"lengths": own}), rows))
    return side, texts


def trainings(device: torch.device, size: str, compiled: bool) -> Iterator[list[str]]:
    """Measure training steps: forward, loss, backward, update."""
    _, batch, regions, features, width = SIZES[size]
    images = images_of(batch, regions, features)
    for name, make in matchers(features, width).items():
        matcher = make().to(device).train()
        if compiled:
            matcher.compile()
        kinds = {"CASC": matcher.hparams.get("num_labels"), "CVSE": 300}
        captions = captions_of(batch, VOCAB, kinds.get(name) or 0)
        pairs = matcher.transfer_batch_to_device(Pairs(images, captions), device, 0)
        optimizer = torch.optim.Adam(matcher.parameters(), lr=2e-4)
        for precision, dtype in PRECISIONS.items():

            def step(matcher=matcher, pairs=pairs, optimizer=optimizer, dtype=dtype):
                optimizer.zero_grad()
                with autocast(device, dtype):
                    loss = matcher.losses(pairs)["total"]
                loss.backward()
                torch.nn.utils.clip_grad_norm_(matcher.parameters(), 2.0)
                optimizer.step()

            seconds, memory = measured(step, device, 10 if device.type == "cuda" else 1)
            rate = f"{batch / seconds:,.0f} pairs/s"
            found = [f"{name} training step, batch {batch}", precision, f"{seconds:.3g}", rate]
            yield [*found, memory, waits(step, device)]


def autocast(device: torch.device, dtype: torch.dtype):
    """Return the context of Lightning's bf16-mixed, or an empty one."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def measured(run: Callable[[], None], device: torch.device, times: int = 1) -> tuple[float, str]:
    """Measure the mean seconds of `times` runs after a warm-up, and the peak memory."""
    run()
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start, ""
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        run()
    torch.cuda.synchronize()
    spent = (time.perf_counter() - start) / times
    return spent, f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB"


def waits(step: Callable[[], None], device: torch.device) -> str:
    """Count how often a step waits for the device; clipping and Adam never wait."""
    if device.type != "cuda":
        return ""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchroniz" in str(x.message) for x in found))


if __name__ == "__main__":
    main()
