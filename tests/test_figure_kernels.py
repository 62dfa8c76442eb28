"""The sheet of kernels: numbers and responses as given, scales that are stated, every text legible, equal bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_sample_image
from test_figures import check_legible, picture, words

from jaxcnn.errors import InputError
from jaxcnn.figures import style
from jaxcnn.figures.kernels import sheet

IMAGE = (load_sample_image("china.jpg")[100:124, 100:136] / 255).astype(np.float32)
IDENTITY = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
VERTICAL = [[1, 0, -1]] * 3
LAPLACIAN = [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]
SHARPEN = np.array([[-1, -1, -1, -1, -1], [-1, 2, 2, 2, -1], [-1, 2, 8, 2, -1], [-1, 2, 2, 2, -1], [-1] * 5]) / 8
TITLES = ["identity", "vertical edges", "all directions", "sharpen with more detail"]
WEIGHTS = [IDENTITY, VERTICAL, LAPLACIAN, SHARPEN]
rng = np.random.default_rng(0)
RESPONSES = np.stack([IMAGE, *rng.normal(size=(2, *IMAGE.shape)) * [[[[0.3]]], [[[2]]]], IMAGE * 3 - 1])


def drawn(**options: object) -> Figure:
    return sheet(IMAGE, TITLES, WEIGHTS, RESPONSES, **options)  # type: ignore[arg-type]


SAMPLES = {
    "page": drawn,
    "page, four columns": lambda: drawn(columns=4),
    "column": lambda: drawn(columns=2, width=style.COLUMN),
    "nothing clipped": lambda: drawn(percentile=100.0),
    "grey": lambda: sheet(IMAGE[..., :1], TITLES, WEIGHTS, RESPONSES[..., :1]),
    "pictures alone": lambda: sheet(IMAGE, ["identity"], [IDENTITY], RESPONSES[:1], columns=2),
    "edges alone": lambda: sheet(IMAGE, ["edges"], [VERTICAL], RESPONSES[1:2], columns=2),
    "long titles": lambda: sheet(IMAGE, ["a name too long for its place " * 3] * 4, WEIGHTS, RESPONSES),
    "numbers too long": lambda: sheet(IMAGE, ["Gaussian"], [np.full((3, 3), 0.1111)], RESPONSES[:1]),
    "high": lambda: sheet(IMAGE.swapaxes(0, 1), TITLES, WEIGHTS, RESPONSES.swapaxes(1, 2)),
    "wide": lambda: sheet(IMAGE[:4], TITLES, WEIGHTS, RESPONSES[:, :4]),
    "zero": lambda: sheet(IMAGE * 0, TITLES, WEIGHTS, RESPONSES * 0),
    "kernel of zeros": lambda: sheet(IMAGE, ["nothing"], [np.zeros((3, 3))], RESPONSES[:1] * 0),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_text_is_legible(name):
    figure = SAMPLES[name]()
    check_legible(figure)
    boxes = [axes.get_position() for axes in figure.axes]
    for i, a in enumerate(boxes):
        assert min(a.x0, a.y0, 1 - a.x1, 1 - a.y1) >= 0
        assert all(min(a.x1, b.x1) <= max(a.x0, b.x0) or min(a.y1, b.y1) <= max(a.y0, b.y0) for b in boxes[:i])


def test_the_photograph_comes_first_and_each_kernel_stands_beside_its_response():
    figure = drawn()
    assert figure.get_figwidth() == pytest.approx(style.PAGE)
    photograph, *pairs, bar = figure.axes
    assert_array_equal(picture(photograph), IMAGE)
    matrices, responses = pairs[::2], pairs[1::2]
    assert len(matrices) == len(responses) == 4
    for matrix, response, weights, title in zip(matrices, responses, WEIGHTS, TITLES, strict=True):
        assert_array_equal(picture(matrix), weights)
        assert matrix.texts[-1].get_text().startswith(title)
        numbers = [text.get_text().replace("−", "-") for text in matrix.texts[:-1]]  # noqa: RUF001
        divisor = 8 if weights is SHARPEN else 1
        assert [float(number) / divisor for number in numbers] == np.ravel(weights).tolist()
        assert matrix.texts[-1].get_text() == (f"{title}, numbers / 8" if divisor == 8 else title)
        a, b = matrix.get_position(), response.get_position()
        assert a.x1 < b.x0
        assert a.y1 == pytest.approx(b.y1)
    assert len(bar.images) == 0


def test_numbers_stand_in_their_cells_and_take_the_colour_of_their_sign():
    matrix = drawn().axes[3]
    assert [text.get_position() for text in matrix.texts[:3]] == [(0, 0), (1, 0), (2, 0)]
    assert [text.get_text() for text in matrix.texts[:3]] == ["1", "0", "−1"]  # noqa: RUF001
    red, white, blue = matrix.images[0].to_rgba(np.array([[1.0, 0.0, -1.0]]))[0, :, :3]
    assert red[0] > red[2]
    assert blue[2] > blue[0]
    assert min(white) > 0.9
    assert matrix.yaxis_inverted()


def test_signed_responses_are_shares_on_one_scale_and_others_are_clipped(caplog):
    figure = drawn()
    assert not caplog.records  # matplotlib warns of colours that it has to clip itself
    _, _, identity, _, vertical, _, laplacian, _, sharpened, bar = figure.axes
    assert_array_equal(picture(identity), IMAGE)
    assert_array_equal(picture(sharpened), RESPONSES[3].clip(0, 1))
    shares = RESPONSES[1].mean(-1) / 3, RESPONSES[2].mean(-1) / 8
    limit = float(np.percentile(np.abs(shares), 97))
    for axes, share in zip((vertical, laplacian), shares, strict=True):
        assert_allclose(picture(axes), share, rtol=1e-6)
        assert axes.images[0].get_clim() == pytest.approx((-limit, limit))
        assert axes.images[0].get_cmap().name == style.DIVERGING
    assert bar.get_xlim() == pytest.approx((-limit, limit))
    assert {style.number(-limit), "0", style.number(limit)} <= set(words(figure))


def test_what_the_colours_mean_is_said():
    signed = "weights that sum to 0: mean response, as share of the largest possible"
    others = "others: a picture, clipped to [0, 1]"
    assert f"{signed}, clipped at the 97% quantile\n{others}" in words_of_figure(drawn())
    assert f"{signed}\n{others}" in words_of_figure(drawn(percentile=100.0))
    assert others in words_of_figure(SAMPLES["pictures alone"]())
    narrow = words_of_figure(drawn(columns=1, width=style.COLUMN))
    assert f"{signed}, clipped at the 97% quantile {others}" in [text.replace("\n", " ") for text in narrow]


def words_of_figure(figure: Figure) -> list[str]:
    """The texts that belong to no axes; all of them legible."""
    check_legible(figure)
    return [text.get_text() for text in figure.texts]


def test_without_signed_responses_there_is_no_colour_bar():
    assert len(SAMPLES["pictures alone"]().axes) == 3
    assert len(SAMPLES["edges alone"]().axes) == 4


def test_weights_that_sum_to_zero_but_for_rounding_are_signed():
    weights = np.array([[0.1, 0.2, -0.3]], np.float32)
    assert weights.astype(float).sum() != 0
    assert len(sheet(IMAGE, ["rounded"], [weights], RESPONSES[1:2]).axes) == 4


def test_integer_pictures_are_read_as_such():
    figure = sheet((IMAGE * 255).round().astype(np.uint8), TITLES, WEIGHTS, RESPONSES)
    assert_allclose(picture(figure.axes[0]), IMAGE, atol=1e-6)


def test_drawing_gives_equal_bytes():
    files = []
    for _ in range(2):
        files.append(io.BytesIO())
        with style.context():
            drawn().savefig(files[-1], format="png")
    assert files[0].getvalue() == files[1].getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": IMAGE[0]}, "expected .*1 or 3 channels"),
        ({"image": IMAGE + 1}, "expected floats in"),
        ({"titles": TITLES[:2]}, "2 titles and 4 kernels; expected a title for each"),
        ({"titles": [], "weights": []}, "0 titles and 0 kernels; expected"),
        ({"weights": [[1, 2], *WEIGHTS[1:]]}, r"'identity' has shape \(2,\); expected \[kh, kw\]"),
        ({"weights": [[[np.nan]], *WEIGHTS[1:]]}, "'identity' has shape .*finite"),
        ({"responses": RESPONSES[:3]}, r"\(3, 24, 36, 3\); expected \(4, 24, 36, 3\)"),
        ({"responses": np.full_like(RESPONSES, np.nan)}, "NaN or infinite"),
        ({"percentile": 0.0}, "percentile is 0"),
        ({"percentile": 101.0}, "percentile is 101"),
        ({"columns": 7}, "7 columns .* expected fewer columns"),
        ({"columns": 0}, "0 columns .* expected at least 1"),
    ],
)
def test_wrong_input_is_refused(change, message):
    arguments = {"image": IMAGE, "titles": TITLES, "weights": WEIGHTS, "responses": RESPONSES, **change}
    with pytest.raises(InputError, match=message):
        sheet(**arguments)
