"""Drawing of SVG: size, alpha, and that nothing outside a drawing is read."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from onnuri.errors import MediaError
from onnuri.media import vector

HEAD = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(inside, size='viewBox="0 0 4 2"', before=""):
    return f"{before}<svg {HEAD} {size}>{inside}</svg>".encode()


def pixels(data, side=vector.SIDE):
    return np.asarray(Image.open(io.BytesIO(vector.draw(data, "x.svg", side))))


def test_the_longest_side_and_alpha():
    drawn = pixels(svg('<path fill="red" d="M0 0h2v2H0z"/>'))
    assert drawn.shape == (128, 256, 4)
    assert drawn[64, 64].tolist() == [255, 0, 0, 255] and drawn[64, 192, 3] == 0
    assert pixels(svg("<path/>", 'viewBox="0 0 1 4"'), 64).shape == (64, 16, 4)


def red(path):
    """A red picture, as a file and as a data URL."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def test_a_picture_within_is_drawn(tmp_path):
    drawn = pixels(svg(f'<image width="4" height="2" xlink:href="{red(tmp_path / "a.png")}"/>'))
    assert drawn[64, 128].tolist() == [255, 0, 0, 255]


@pytest.mark.parametrize(
    ("inside", "before"),
    [
        ('<image width="4" height="4" xlink:href="{path}"/>', ""),
        ("<image width='4' height='4' href = ' {path}'/>", ""),
        ('<image width="4" height="4" href="&p;"/>', '<!DOCTYPE svg [<!ENTITY p "{path}">]>'),
        ("&e;", """<!DOCTYPE svg [<!ENTITY e "<image width='4' height='4' href='{path}'/>">]>"""),
        ("&e;", """<!DOCTYPE svg [<!ENTITY e "&#60;image width='4' href='{path}'/>">]>"""),
        ('<filter id="f"><feImage href="{path}"/></filter>', ""),
        ('<s:image xmlns:s="http://www.w3.org/2000/svg" href="{path}"/>', ""),
    ],
)
def test_a_drawing_that_names_other_files_is_refused(tmp_path, inside, before):
    path = tmp_path / "secret.png"
    red(path)
    data = svg(inside.format(path=path), before=before.format(path=path))
    with pytest.raises(MediaError, match=r"x\.svg: is an SVG that names other files") as refusal:
        vector.draw(data, "x.svg")
    assert refusal.value.code == "outside"


@pytest.mark.parametrize("data", [b"<svg>", b"<svg xmlns='x'/>", "<svg>é".encode("latin-1"), b""])
def test_damage_is_refused(data):
    with pytest.raises(MediaError, match=r"x\.svg: is an SVG that"):
        vector.draw(data, "x.svg")


def test_a_huge_drawing_is_drawn_small():
    assert pixels(svg("<path/>", 'width="9000000" height="9000000"'), 32).shape == (32, 32, 4)
