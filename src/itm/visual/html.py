"""Pages for people: one self-contained HTML file, light or dark as the reader's system is.

Whatever is not `Html` is escaped, so captions, file names and queries show as the text they are.
Pages hold no scripts, load nothing, and tell the browser to refuse both.

>>> element("p", "1 < 2 ", element("b", "always"))
'<p>1 &lt; 2 <b>always</b></p>'
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

STYLE = """
:root { --ink: #1c1e21; --quiet: #6a7079; --paper: #fff; --card: #f5f6f8; --line: #e1e4e8;
  --accent: #2a62d6; --good: #1f8a4c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa1ab; --paper: #16181c;
  --card: #1f2228; --line: #31353d; --accent: #7aa5ff; --good: #5cc98a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; color-scheme: light dark; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; }
.quiet, figcaption small { color: var(--quiet); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
.number { text-align: right; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
figure { margin: 0; padding: .75rem; border-radius: .6rem; background: var(--card);
  overflow-wrap: anywhere; }
figure.good { outline: 2px solid var(--good); }
figcaption small { display: block; font-variant-numeric: tabular-nums; }
img, svg { display: block; max-width: 100%; height: auto; margin-bottom: .5rem; }
img { border-radius: .35rem; }
a { color: var(--accent); }
pre, code { font: .9em ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border-radius: .6rem; background: var(--card); }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PICTURES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",  # inside <img> a browser runs no script of it
}


class Html(str):
    """Markup that is already safe to put into a page."""


def text(value: Any) -> Html:
    """A value as it shows on a page: `Html` as it is, numbers and all else escaped."""
    if isinstance(value, Html):
        return value
    return Html(escape(f"{value:.4g}" if isinstance(value, float) else str(value)))


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """One element; content and attribute values are escaped, `class_` stands for `class`.

    Attributes that are None are left out.
    """
    given = {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()}
    opening = "".join(f' {k}="{escape(str(v))}"' for k, v in given.items() if v is not None)
    if tag in ("img", "br", "hr"):
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{''.join(map(text, content))}</{tag}>")


def page(title: str, *body: Any) -> str:
    """The whole file: `Path(out).write_text(page("Results", table(...)), encoding="utf-8")`."""
    head = (
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Html(STYLE)),
    )
    main = element("body", element("h1", title), *body)
    return f"<!doctype html>\n{element('html', element('head', *head), main, lang='en')}\n"


def section(title: str, *content: Any) -> Html:
    """A heading and what follows it."""
    return element("section", element("h2", title), *content)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """A table; columns of numbers are right-aligned."""
    sides = [
        "number" if rows and all(isinstance(row[i], int | float) for row in rows) else None
        for i in range(len(columns))
    ]

    def line(tag: str, cells: Sequence[Any]) -> Html:
        pairs = zip(cells, sides, strict=True)
        return element("tr", *(element(tag, cell, class_=side) for cell, side in pairs))

    body = element("tbody", *(line("td", row) for row in rows))
    whole = element("table", element("thead", line("th", columns)), body)
    return element("div", whole, class_="scroll")


def gallery(*cards: Html) -> Html:
    """Cards side by side, as many in a row as fit."""
    return element("div", *cards, class_="gallery")


def card(content: Any, *, picture: Html | None = None, note: Any = "", good: bool = False) -> Html:
    """A small box: a picture over its text over a quiet note; `good` outlines it."""
    small = element("small", note) if note != "" else ""
    words = element("figcaption", content, small)
    return element("figure", picture or "", words, class_="good" if good else None)


def thumbnail(source: str | Path | Image, size: int = 320, alt: str = "") -> Html:
    """A picture inside the page, at most `size` pixels wide and high.

    Args:
        source: a picture file, or a `PIL.Image.Image`.
        size: of the longer side; without Pillow a file is put in as large as it is.
        alt: what is said where pictures are not shown; the file's name by default.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a picture.
    """
    if not isinstance(source, str | Path):
        return _image(_jpeg(source, size), "image/jpeg", alt)
    path = Path(source)
    kind, alt = PICTURES.get(path.suffix.lower()), alt or path.name
    if kind is None:
        raise ValueError(f"{path} is no picture; expected one of {', '.join(PICTURES)}")
    if kind != "image/svg+xml":
        try:
            from PIL import Image, ImageOps, UnidentifiedImageError
        except ImportError:
            pass
        else:
            try:
                with Image.open(path) as opened:
                    return _image(_jpeg(ImageOps.exif_transpose(opened), size), "image/jpeg", alt)
            except UnidentifiedImageError as error:
                raise ValueError(f"{path} is no picture that can be read") from error
    return _image(path.read_bytes(), kind, alt)


def _jpeg(picture: Image, size: int) -> bytes:
    small = picture.convert("RGB")
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _image(content: bytes, kind: str, alt: str) -> Html:
    source = f"data:{kind};base64,{b64encode(content).decode('ascii')}"
    return element("img", src=source, alt=alt, loading="lazy")
