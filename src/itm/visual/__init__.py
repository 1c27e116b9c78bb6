"""Figures and HTML pages; only this package imports matplotlib and Jinja2."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "explanation_figure": ["draw_explanation"],
        "phrase_figure": ["draw_image", "draw_phrases"],
        "figure_files": ["save"],
    },
)

if TYPE_CHECKING:
    from itm.visual.explanation_figure import draw_explanation as draw_explanation
    from itm.visual.figure_files import save as save
    from itm.visual.phrase_figure import draw_image as draw_image
    from itm.visual.phrase_figure import draw_phrases as draw_phrases
