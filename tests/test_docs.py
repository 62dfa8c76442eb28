"""The written pages and the docstrings do what they say: code runs, commands parse, links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import tyro

import jaxcnn
from jaxcnn import catalog, cli, models, run
from jaxcnn.checkpoint import Checkpoints
from jaxcnn.config import ModelSpec
from jaxcnn.train import optimizers

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"""\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)|<img[^>]* src="([^"]+)\"""")

_SPEC = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "site" / "hooks.py")


def code_of(page: Path) -> list[str]:
    return [block for kind, block in BLOCK.findall(page.read_text()) if kind == "python"]


def commands_of(page: Path) -> list[str]:
    blocks = [block.replace("\\\n", "") for kind, block in BLOCK.findall(page.read_text()) if kind in ("", "bash")]
    lines = "\n".join(blocks).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("jaxcnn ")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with the run that the pages speak of, untrained, and with the experiments that they name."""
    folder = tmp_path_factory.mktemp("workplace")
    experiment, _ = catalog.load("lenet5_digits")
    options = models.options("lenet5") | dict(experiment.model.options)
    names = tuple(map(str, range(10)))
    spec = ModelSpec("lenet5", options, 10, (28, 28, 1), (0.5,), (0.5,), names, "float32")
    rule = optimizers.create(experiment.optimizer, total_steps=440, steps_per_epoch=22)
    state = jaxcnn.state.create(models.from_spec(spec), jax.random.key(0), (28, 28, 1), rule)
    with run.open(folder / "runs" / "demo", experiment, spec) as files, Checkpoints(files.checkpoints) as saved:
        saved.save(state, progress={}, experiment=experiment, model=spec, metrics=None)
    text = next(block for block in code_of(ROOT / "docs" / "own_images.md") if "EXPERIMENT" in block)
    for name in (
        "mine.py",
        "my_birds.py",
        "my_experiment.py",
        "runs/perceptron/best.py",
        "runs/lenet5_digits_search/best.py",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""An experiment."""\n\n{text}')
    own = code_of(ROOT / "docs" / "add_a_model.md")[:2]
    (folder / "softmax.py").write_text("\n".join(['"""An own network."""\n', *own]))
    return folder


LONG = {"explain", "gallery"}  # they compile most


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in LONG else (), id=page.stem)
        for page in PAGES
        if page.name != "README.md" and code_of(page)
    ],
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    names: dict[str, Any] = {"__name__": "page"}
    for block in code_of(page):
        exec(compile(block, str(page), "exec"), names)
    for value in names.values():
        if isinstance(value, jax.Array) and value.dtype == np.float32:
            assert np.isfinite(value).all()


def test_the_model_to_add_has_the_parameters_that_its_facts_say():
    names: dict[str, Any] = {"__name__": "softmax"}
    exec(code_of(ROOT / "docs" / "add_a_model.md")[0], names)
    registration = names["MODELS"]["softmax"]
    model = registration.module(num_classes=10)
    images = jax.ShapeDtypeStruct((1, *registration.facts.input_shape), np.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == registration.facts.parameters


class Parsed(Exception):
    """A command line has been understood."""


@pytest.mark.parametrize("command", sorted({command for page in PAGES for command in commands_of(page)}))
def test_every_command_is_understood(command, workplace, monkeypatch, capsys):
    parse = tyro.cli

    def parse_only(*args: Any, **kwargs: Any) -> Any:
        parse(*args, **kwargs)
        raise Parsed

    monkeypatch.chdir(workplace)
    monkeypatch.setattr(tyro, "cli", parse_only)
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    monkeypatch.setattr("jaxcnn.cli.runs.run_as_member", lambda work: work(lambda: None))
    with pytest.raises(Parsed):
        cli.main(shlex.split(command)[1:])


def hooks() -> Any:
    pytest.importorskip("mkdocs", reason="the site's pages are made with MkDocs: pip install '.[docs]'")
    assert _SPEC is not None
    assert _SPEC.loader is not None
    module = importlib.util.module_from_spec(_SPEC)
    _SPEC.loader.exec_module(module)
    return module


def test_the_reference_lists_every_public_module():
    site = hooks()
    found = {"jaxcnn", *(module.name for module in pkgutil.walk_packages(jaxcnn.__path__, "jaxcnn."))}
    left_out = {name for name in found if name.startswith(site.NOT_A_LIBRARY)}
    private = {name for name in found if any(part.startswith("_") for part in name.split("."))}
    assert set(site.modules()) == found - left_out - private
    assert len(site.modules()) == len(set(site.modules()))


def test_formulas_of_docstrings_are_set_apart_line_by_line():
    path = ROOT / "docs" / "site" / "formulas.py"
    pytest.importorskip("griffe", reason="the reference is read with Griffe: pip install '.[docs]'")
    spec = importlib.util.spec_from_file_location("formulas", path)
    assert spec is not None
    assert spec.loader is not None
    site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(site)
    prose = ["Normalise every channel.", "with running = a batch, and so\ny = x.", "Args:\n  x: f = 1.\n  y = 2"]
    formulas = {
        "f = sum_ij <a_ij, v>": "f = sum_ij &lt;a_ij, v&gt;",
        "dx[n, q] = a * b,  with\nits own `size`\ndW' = c*d": "dx[n, q] = a * b,  with its own size\ndW' = c*d",
        "forward:  X_0 = x\nz, y = f(x)\nG_{l-1} ~ N(0, 1)": "forward:  X_0 = x\nz, y = f(x)\nG_{l-1} ~ N(0, 1)",
    }
    shown = site.set_apart("\n\n".join([*prose, *formulas])).split("\n\n")
    assert shown[: len(prose)] == prose
    assert shown[len(prose) :] == [f'<p class="formula"><code>{text}</code></p>' for text in formulas.values()]


def test_the_page_of_no_address_needs_no_other_file():
    text = hooks().on_post_template("as the theme has it", "404.html", None)
    assert not re.search(r"""<link|src=|url\(|@import""", text)
    assert set(re.findall(r'href="([^"]*)"', text)) == {"./"}
    assert hooks().on_post_template("a map", "sitemap.xml", None) == "a map"


def test_a_page_breaks_no_flag_and_leads_from_a_figure_to_itself_at_one_scale():
    site = hooks()
    from mkdocs.structure.files import File, Files

    picture = File("lesion.png", str(ROOT / "docs"), "site", use_directory_urls=False)
    html = '<p><img alt="a" src="lesion.png"> <code>train --run\na-b</code></p><td><code>a.b_c::d_e</code></td>'
    html += '<div class="language-python"><code>x --y</code></div><pre><code>--z\n</code></pre>'
    here = SimpleNamespace(file=SimpleNamespace(src_uri="here.md"), parent=None, meta={})
    shown = site.on_page_content(html, here, None, Files([picture]))
    assert '<a class="figure" href="lesion.png"><img style="--share: 100%" alt="a" src="lesion.png"></a>' in shown
    assert '<code>train <span class="flag">--run</span>\na-b</code>' in shown
    assert "a.b_<wbr>c::<wbr>d_<wbr>e" in shown
    assert "<code>--z\n</code>" in shown
    command = "train a \\\n  --run b"
    assert site.on_page_markdown(command, here, None, Files([])) == "train a --run b"
    assert here.meta == {"hide": ["navigation"]}


def test_the_reference_leads_to_every_exception_that_it_names():
    site = hooks()
    from jaxcnn import errors

    public = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert public == {name for name, module in site.RAISED.items() if module == "jaxcnn.errors"}
    here = SimpleNamespace(file=SimpleNamespace(src_uri="reference/jaxcnn.ops.md"))
    known = '<autoref identifier="jaxcnn.errors.InputError">InputError</autoref>'
    html = f"<code>RunError</code><code>({known}, RunError)</code><code>OSError</code>{known}"
    shown = site.on_page_content(html, here, None, None)
    link = '<autoref identifier="jaxcnn.errors.RunError">RunError</autoref>'
    assert shown == f"<code>{link}</code><code>({known}, {link})</code><code>OSError</code>{known}"
    for name, module in site.RAISED.items():
        assert issubclass(getattr(importlib.import_module(module), name), Exception)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("floor((n + 2p - d(f - 1) - 1)/s) + 1", "⌊(n + 2p − d(f − 1) − 1)/s⌋ + 1"),  # noqa: RUF001
        ("z11 = f11 x11 + 12x20", "z<sub>11</sub> = f<sub>11</sub> x<sub>11</sub> + 12×20"),  # noqa: RUF001
        ("X_col^T, f_(l-1)", "X<sub>col</sub><sup>T</sup>, f<sub>l−1</sub>"),  # noqa: RUF001
        ("y = gamma x_hat + beta; dsigma2", "y = γ x\u0302 + β; dσ²"),  # noqa: RUF001
        ("exp(x_i)/sum_j exp(-x_j)", "exp(x<sub>i</sub>)/Σ<sub>j</sub> exp(−x<sub>j</sub>)"),  # noqa: RUF001
        ("L = sqrt(1/2 sum (y_hat - y)^2)", "L = √(1/2 Σ (y\u0302 − y)<sup>2</sup>)"),  # noqa: RUF001
        ("1-D, arg-max, 1 if x &gt;= 0", "1-D, arg-max, 1 if x ≥ 0"),
    ],
)
def test_formulas_are_shown_as_on_a_board(written, shown):
    assert hooks()._typeset(written) == shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_and_picture_of_a_page_is_there(page):
    made = {"reference.md", "command_line.md"}
    for link, picture in LINK.findall(page.read_text()):
        target = link or picture
        if page.parent.name == "docs" and target in made:
            continue
        if page.parent.name == "docs" and (module := re.fullmatch(r"reference/(.+)\.md", target)):
            assert importlib.util.find_spec(module[1]) is not None, target
        else:
            assert (page.parent / target).exists(), target


WITH_EXAMPLES = [path for path in sorted((ROOT / "jaxcnn").rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_of_a_docstring_gives_what_it_shows(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
