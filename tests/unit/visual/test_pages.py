import base64
import re

import pytest
from browser import dom, screenshot

from itm.visual import html as pages

EVIL = "<script>document.title='owned'</script> & \"quotes\" 'too'"


def test_text_and_attributes_are_escaped_and_markup_is_not():
    made = pages.element("p", EVIL, pages.element("b", 1.5), title=EVIL, data_x=None)
    assert "<script" not in made and "<b>1.5</b>" in made and "data-x" not in made
    assert made.count("&quot;quotes&quot;") == 2


def test_a_page_with_hostile_text_in_every_place():
    every = pages.page(
        EVIL,
        pages.section(EVIL, pages.table([EVIL, "n"], [[EVIL, 3], [EVIL, 0.25]])),
        pages.gallery(pages.card(EVIL, note=EVIL, good=True)),
        EVIL,
    )
    assert "<script" not in every
    assert every.count("&lt;script&gt;") == 9  # the title twice
    assert '<td class="number">3</td>' in every and '<td class="number">0.25</td>' in every


def test_a_browser_shows_the_text(tmp_path):
    file = tmp_path / "page.html"
    file.write_text(pages.page("Page", pages.element("p", EVIL, id="it")), encoding="utf-8")
    shown = dom(file, tmp_path / "profile")
    assert "<title>Page</title>" in shown  # nothing ran
    assert "&lt;script&gt;document.title='owned'" in shown and "<script" not in shown


def test_a_browser_refuses_scripts_and_the_network_even_in_markup(tmp_path):
    file = tmp_path / "page.html"
    bad = pages.Html("<script>document.title='owned'</script><img src='http://127.0.0.1:9/x.png'>")
    file.write_text(pages.page("Page", bad), encoding="utf-8")
    assert "<title>Page</title>" in dom(file, tmp_path / "profile")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
def test_thumbnails_are_small_pictures_inside_the_page(tmp_path, suffix):
    from PIL import Image

    Image.new("RGBA" if suffix == "png" else "RGB", (900, 300), "red").save(
        tmp_path / f"a.{suffix}"
    )
    made = pages.thumbnail(tmp_path / f"a.{suffix}", size=90)
    found = re.fullmatch(
        r'<img src="data:image/jpeg;base64,([^"]+)" alt="a.\w+" loading="lazy">', made
    )
    (tmp_path / "back.jpg").write_bytes(base64.b64decode(found[1]))
    assert Image.open(tmp_path / "back.jpg").size == (90, 30)
    assert "<img" in pages.thumbnail(Image.new("L", (4, 4)), alt=EVIL)


def test_a_photograph_stands_upright(tmp_path):
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=turned)
    made = pages.thumbnail(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(base64.b64decode(re.search(r"base64,([^\"]+)", made)[1]))
    assert Image.open(tmp_path / "b.jpg").size == (20, 40)


def test_no_picture_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    (tmp_path / "a.txt").write_text("no picture")
    for name, kind in (("a.png", ValueError), ("a.txt", ValueError), ("b.png", FileNotFoundError)):
        with pytest.raises(kind, match=name):
            pages.thumbnail(tmp_path / name)


def test_light_and_dark(tmp_path):
    from PIL import Image

    file = tmp_path / "page.html"
    file.write_text(pages.page("Page", pages.table(["a"], [[1]])), encoding="utf-8")
    corner = [
        Image.open(screenshot(file, tmp_path / f"{dark}.png", tmp_path / f"p{dark}", dark=dark))
        .convert("RGB").getpixel((3, 3))
        for dark in (False, True)
    ]  # fmt: skip
    assert corner == [(255, 255, 255), (22, 24, 28)]
