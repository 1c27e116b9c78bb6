"""Compile selected methods of a module instead of its `forward`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytorch_lightning as pl
import torch


class CompiledMethods(pl.LightningModule):
    """A LightningModule whose `compile` compiles selected methods.

    Attributes:
        compiled: names of the methods to compile.
    """

    compiled: ClassVar[tuple[str, ...]] = ()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the methods that `compiled` names; arguments as for `torch.compile`."""
        for name in self.compiled:
            setattr(self, name, torch.compile(getattr(self, name), *args, **kwargs))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out compiled methods, which would stay bound to the original in a copy."""
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in self.compiled}
