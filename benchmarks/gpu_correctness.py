"""Compare the numbers of a GPU with those of the CPU: losses, gradients and scores."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_clock import autocast
from benchmarks.gpu_inputs import Row, batch_of, matchers, plain_data, vocabulary
from itm.batch import Pairs
from itm.matcher.matcher import Matcher


def correctness(device: torch.device, size: dict[str, Any]) -> Iterator[Row]:
    """Compare loss, gradients and scores: float32 with the CPU, bfloat16 with float32."""

    def gradients(matcher: Matcher, pairs: Pairs, dtype: torch.dtype) -> list[torch.Tensor]:
        """Return the loss and all gradients of a batch."""
        matcher.zero_grad()
        with autocast(pairs.images.regions.device, dtype):
            total = matcher.losses(pairs)["total"]
        total.backward()
        found = [p.grad.flatten() for p in matcher.parameters() if p.grad is not None]
        return [x.detach().float().cpu() for x in (total, torch.cat(found))]

    def gaps(title: str, a: list[torch.Tensor], b: list[torch.Tensor]) -> dict[str, float]:
        """Return the distances of the losses and of the gradients, relative to their lengths."""
        names = f"loss_{title}", f"gradient_{title}"
        return {n: float((x - y).norm() / y.norm()) for n, x, y in zip(names, a, b, strict=True)}

    def compare(name: str) -> dict[str, Any]:
        torch.manual_seed(0)
        matcher = matchers(size)[name]().train()
        pairs = batch_of(name, matcher, min(16, size["batch"]), size)
        host = gradients(matcher, pairs, torch.float32)
        there = matcher.to(device)
        sent = there.transfer_batch_to_device(pairs, device, 0)
        single, half = (gradients(there, sent, dtype) for dtype in (torch.float32, torch.bfloat16))
        return gaps("fp32_to_cpu", single, host) | gaps("bf16_to_fp32", half, single)

    def scores(name: str) -> dict[str, Any]:
        """Score in many small blocks, which are copied to the host while others are computed."""
        torch.manual_seed(0)
        matcher = matchers(size)[name]().eval()
        matcher.vocab, matcher.memory_budget = vocabulary(), 1 << 24
        inputs = plain_data(min(64, size["images"]), size)
        host = matcher.score(*inputs, batch_size=16)
        there = matcher.to(device).score(*inputs, batch_size=16)
        half = matcher.score(*inputs, batch_size=16, precision="bf16-mixed")
        spread = float(np.std(host))
        return {
            "scores_fp32_to_cpu": float(np.abs(there - host).max()) / spread,
            "scores_bf16_to_fp32": float(np.abs(half - there).max()) / spread,
        }

    def exactly(check: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
        """Compare with cuDNN's GRUs in float32; by default they compute in TF32."""
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        try:
            return check(name)
        finally:
            torch.backends.cudnn.allow_tf32 = before

    for title, check in (("", compare), (", scores", scores)):
        for name in matchers(size):
            yield name + title, lambda check=check, name=name: exactly(check, name)
