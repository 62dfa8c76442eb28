"""What commands say of images that a network does not take and of places that cannot be written: one sentence each."""

from __future__ import annotations

import pytest
from commands import invoke, random_weights

from jaxcnn.config import ModelSpec
from jaxcnn.figures import style


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A random network for images of 8x8 in a file of weights."""
    spec = ModelSpec("mlp", {"width": 4, "depth": 1}, 10, (8, 8, 1), (0.3,), (0.4,), ())
    return random_weights(tmp_path_factory.mktemp("weights"), spec)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("evaluate", "mlp with these weights takes images of 8x8x1; expected 28x28x1, as the images have"),
        ("patches --layer hidden1", "MLP does not take images of 28x28x1; expected such as it was trained on"),
        ("maximize --layer hidden1", "MLP does not take images of 28x28x1; expected such as it was trained on"),
        ("maximize", "MLP does not take images of 28x28x1; expected such as it was trained on"),
        ("saliency --methods gradient", "MLP does not take images of 28x28x1; expected such as it was trained on"),
        ("dynamics", "mlp takes images of 8x8x1; expected 28x28x1, as the images have"),
    ],
)
def test_images_of_another_size_are_refused(file, here, capsys, command, says):
    name, *rest = command.split()
    status, out, err = invoke(
        capsys, name, "mlp", "--weights", file, "--dataset", "digits", "--image-size", "28", *rest
    )
    assert (status, out) == (2, "")
    assert says in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("train lenet5_digits --model.name mlp --run file", 2, "file is a file; expected a directory, new or of a run"),
        ("train lenet5_digits --model.name mlp --run file/new", 1, "file/new cannot be made: Not a directory"),
        ("search lenet5_digits --model.name mlp --run file/new", 1, "file/new cannot be made: Not a directory"),
        ("summary mlp --figure file/new.png", 2, "file/new.png cannot be made: Not a directory"),
    ],
)
def test_a_place_inside_a_file_is_refused(here, capsys, command, status, says):
    found, _, err = invoke(capsys, *command.split())
    assert (found, says in err.splitlines()[-1]) == (status, True)
    assert "Traceback" not in err
    assert (here / "file").read_text() == "mine"


def test_a_figure_that_cannot_be_written_is_named_as_it_was_asked_for(here):
    (here / "figure.pdf").mkdir()
    figure = style.StyledFigure(figsize=(1, 1))
    with pytest.raises(OSError, match=r"'.*figure\.pdf'$"):
        style.save(figure, here / "figure")
    assert sorted(path.name for path in here.iterdir()) == ["figure.pdf", "file"]
