"""The base class of all backbones: training, scoring plain data, explanation."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "matcher": ["OBJECTS", "Matcher"],
        "explanation": ["Details", "Explanation", "explain"],
    },
)

if TYPE_CHECKING:
    from itm.matcher.explanation import Details as Details
    from itm.matcher.explanation import Explanation as Explanation
    from itm.matcher.explanation import explain as explain
    from itm.matcher.matcher import OBJECTS as OBJECTS
    from itm.matcher.matcher import Matcher as Matcher
