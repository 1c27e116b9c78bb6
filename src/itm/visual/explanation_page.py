"""Make the page of `python -m itm.explain`: the figure, and the scores of labels or concepts."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

from itm.matcher.explanation import Explanation
from itm.visual.figure_files import save
from itm.visual.html import Table, render
from itm.visual.thumbnails import thumbnail


def explanation_page(explanation: Explanation, figure: Figure, name: str) -> str:
    """Make the page for one image and one caption.

    Args:
        explanation: explanation of the pair.
        figure: from `itm.visual.draw_explanation`.
        name: name of the image.
    """
    content = BytesIO()
    save(figure, content, "png")
    names = explanation.details.names
    numbers = [f"{title} {x:.4g}" for title, x in explanation.details.numbers.items()]
    data = {
        "title": explanation.caption,
        "about": ", ".join([f"image {name}", f"score {explanation.score:.4f}", *numbers]),
        "sheet": thumbnail(Image.open(content), 2000, alt="what the matcher looks at"),
        "tables": {key: Table(["word", "image", "sentence"], rows) for key, rows in names.items()},
    }
    return render("explanation.html", data)
