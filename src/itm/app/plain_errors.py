"""Tell expected errors from others, and find the error that Hydra wraps."""

from __future__ import annotations

import re

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

EXPECTED = (ValueError, OSError, ImportError, HydraException, OmegaConfBaseException)
ARGUMENT = r"[a-z]\w*(=\S*:?)? (must|needs) "  # a message of a class about its argument


def is_expected(error: BaseException | None) -> bool:
    """Tell whether an error says what is wrong with the input, so that no traceback is needed."""
    # Lightning's error about options of the trainer; by name, since importing it takes seconds.
    return isinstance(error, EXPECTED) or type(error).__name__ == "MisconfigurationException"


def without_call(error: InstantiationException) -> BaseException:
    """Return the error of a class that Hydra called, with the group of the option that is wrong."""
    cause = error.__cause__
    if cause is None:
        return error
    if not is_expected(cause):
        found = re.search(r"target '([\w.]+)'", str(error))
        name = found[1].rpartition(".")[2] if found else "an object of the configuration"
        plain: BaseException = ValueError(f"{name} cannot be built with these options: {cause}")
        return plain.with_traceback(cause.__traceback__)
    group = re.search(r"full_key: (\w+)\s*$", str(error))
    if type(cause) is not ValueError or not group or not re.match(ARGUMENT, str(cause)):
        return cause
    return ValueError(f"{group[1]}.{cause}").with_traceback(cause.__traceback__)
