import base64
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from browser import dom, screenshot
from jinja2 import UndefinedError
from markupsafe import Markup

from itm.data.pictures import Pictures
from itm.matcher.explanation import Details, Explanation
from itm.runs.report import Section
from itm.visual import draw_explanation
from itm.visual.explanation_page import explanation_page
from itm.visual.html import TEMPLATES, Table, render
from itm.visual.report_page import report_page
from itm.visual.search_page import search_page
from itm.visual.thumbnails import Thumbnail, thumbnail, thumbnail_of

EVIL = "<script>document.title='owned'</script> & \"quotes\" 'too'"


def page(content, title="Page", **data):
    """Render a page whose template has `content`."""
    start = '{% extends "layout.html" %}{% from "macros.html" import picture, table %}'
    source = start + "{% block content %}" + content + "{% endblock %}"
    return TEMPLATES.from_string(source).render({"title": title, **data})


def image(found):
    """Return the element that shows a thumbnail in a page."""
    return re.search("<img[^>]*>", page("{{ picture(it) }}", it=found))[0]


def test_templates_are_files_of_the_package():
    folder = files("itm.visual") / "templates"
    names = {"layout.html", "macros.html", "search.html", "explanation.html", "report.html"}
    names |= {"failures.html"}
    assert names | {"style.css"} == set(TEMPLATES.list_templates())
    assert all((folder / name).is_file() for name in names)


def test_text_and_attributes_are_escaped_and_markup_is_not():
    bold = Markup("<b>it</b>")
    made = page('<p title="{{ a }}">{{ a }} {{ n }} {{ b }}</p>', a=EVIL, n=1.25, b=bold)
    assert "<script" not in made and "1.25 <b>it</b>" in made
    assert made.count("&#34;quotes&#34;") == 2
    assert "0.3333" in page("{{ n }}", n=1 / 3) and "0.33333" not in page("{{ n }}", n=1 / 3)
    with pytest.raises(UndefinedError, match="missing"):
        page("{{ missing }}")


def test_a_page_with_hostile_text_in_every_place():
    table = Table([EVIL, "n"], [[EVIL, 3], [EVIL, 0.25]])
    made = page("<h2>{{ it }}</h2>{{ table(rows) }}{{ it }}", EVIL, it=EVIL, rows=table)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 7  # the title twice
    assert '<td class="number">3</td>' in made and '<td class="number">0.25</td>' in made
    made = image(Thumbnail(f"data:{EVIL}", EVIL))
    assert made.count("<") == 1 and made.count("&lt;script&gt;") == 2


def test_every_kind_of_page_with_hostile_text(tmp_path):
    split = SimpleNamespace(folder=tmp_path, name="test", ids=[EVIL])
    (tmp_path / "a").mkdir()
    answers = [(EVIL, "images", [(EVIL, 0.5)]), (EVIL, "captions", [(EVIL, 0.5), ("b", 0.25)])]
    searched = search_page(answers, {EVIL: [EVIL]}, Pictures(split), EVIL)
    assert searched.count("&lt;script&gt;") == 6 and searched.count('class="good"') == 1
    assert "<td>0.5000</td>" in searched and searched.count("<td>its own</td>") == 1
    details = Details(words={"words": np.ones(2)})
    found = Explanation(EVIL, ["a", "b"], 0.25, details)
    figure = draw_explanation(found)
    named = found._replace(details=Details(names={EVIL: [(EVIL, 0.5, float("nan"))]}))
    explained = explanation_page(named, figure, EVIL)
    assert explained.count("&lt;script&gt;") == 5
    rows = [[EVIL, 1], [EVIL, 2]]
    reported = report_page(EVIL, [Section(EVIL, EVIL, [EVIL, "n"], rows), Section(EVIL)])
    assert reported.count("&lt;script&gt;") == 8
    for made in (searched, explained, reported):
        assert "<script" not in made and "default-src 'none'" in made


def test_a_browser_shows_the_text(tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page('<p id="it">{{ it }}</p>', it=EVIL), encoding="utf-8")
    shown = dom(file, tmp_path / "profile")
    assert "<title>Page</title>" in shown  # nothing ran
    assert "&lt;script&gt;document.title='owned'" in shown and "<script" not in shown


def test_a_browser_refuses_scripts_and_the_network_even_in_markup(tmp_path):
    asked = []

    class Listening(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as server:
        Thread(target=server.serve_forever).start()
        picture = f"<img src='http://127.0.0.1:{server.server_port}/x.png'>"
        bad = Markup("<script>document.title='owned'</script>" + picture)
        try:
            for name, content in (("page", page("{{ bad }}", bad=bad)), ("free", picture)):
                (tmp_path / f"{name}.html").write_text(content, encoding="utf-8")
            assert "<title>Page</title>" in dom(tmp_path / "page.html", tmp_path / "profile")
            assert not asked
            dom(tmp_path / "free.html", tmp_path / "profile")
            assert asked == ["/x.png"]  # so a page of another kind would have been noticed
        finally:
            server.shutdown()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
def test_thumbnails_are_small_pictures_inside_the_page(tmp_path, suffix):
    from PIL import Image

    Image.new("RGBA" if suffix == "png" else "RGB", (900, 300), "red").save(
        tmp_path / f"a.{suffix}"
    )
    made = image(thumbnail(tmp_path / f"a.{suffix}", size=90))
    found = re.fullmatch(
        r'<img src="data:image/jpeg;base64,([^"]+)" alt="a.\w+" loading="lazy">', made
    )
    (tmp_path / "back.jpg").write_bytes(base64.b64decode(found[1]))
    with Image.open(tmp_path / "back.jpg") as picture:
        assert picture.size == (90, 30)
    assert "<img" in image(thumbnail(Image.new("L", (4, 4)), alt=EVIL))


def test_an_svg_stays_one_and_a_file_without_pillow_too(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "a.svg").write_text("<svg/>")
    Image.new("RGB", (900, 300)).save(tmp_path / "a.png")
    assert thumbnail(tmp_path / "a.svg").source == "data:image/svg+xml;base64,PHN2Zy8+"
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    found = thumbnail(tmp_path / "a.png")
    content = base64.b64decode(found.source.removeprefix("data:image/png;base64,"))
    assert content == (tmp_path / "a.png").read_bytes()


def test_scenes_without_pillow_have_no_thumbnail():
    class Scenes:
        def find(self, name, width):
            raise ImportError("drawing scenes needs Pillow")

    assert thumbnail_of(Scenes(), "a") is None


def test_a_picture_that_cannot_be_read_is_left_out_of_the_page(tmp_path, capsys):
    (tmp_path / "a.png").write_text("no picture")
    split = SimpleNamespace(folder=tmp_path, name="test", ids=["a"], num_images=1)
    assert thumbnail_of(Pictures(split, tmp_path), "a") is None
    assert "no picture of 'a' on the page: " in capsys.readouterr().err


def test_control_characters_and_half_characters_are_replaced(tmp_path):
    made = page("<p>{{ it }}</p>", it="a\x1b[31m\ud800b\nc")
    assert "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b\nc" in made
    made.encode("utf-8")


def test_a_photograph_stands_upright(tmp_path):
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    made = image(thumbnail(tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").write_bytes(base64.b64decode(re.search(r"base64,([^\"]+)", made)[1]))
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.size == (20, 40)


def test_no_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "a.txt").write_text("no picture")
    for name, kind in (("a.png", ValueError), ("a.txt", ValueError), ("b.png", FileNotFoundError)):
        with pytest.raises(kind, match=name):
            thumbnail(tmp_path / name)


def test_light_and_dark(tmp_path):
    from PIL import Image

    file = tmp_path / "page.html"
    content = "{{ table(it) }}"
    file.write_text(page(content, it=Table(["a"], [[1]])), encoding="utf-8")
    corner = [
        Image.open(screenshot(file, tmp_path / f"{dark}.png", tmp_path / f"p{dark}", dark=dark))
        .convert("RGB").getpixel((3, 3))
        for dark in (False, True)
    ]  # fmt: skip
    assert corner == [(255, 255, 255), (22, 24, 28)]


def test_render_fills_a_template_by_name():
    made = render("report.html", {"title": "1 < 2", "sections": []})
    assert made.startswith("<!doctype html>") and made.count("1 &lt; 2") == 2
