"""Writes the page of a run, of several runs compared, or of a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxcnn import run
from jaxcnn.errors import InputError
from jaxcnn.report.page import comparison, study
from jaxcnn.report.page.opened import Opened, open_run
from jaxcnn.report.page.rendering import MARK, Page, Part, html
from jaxcnn.report.page.section import sections
from jaxcnn.train.study import is_study


def write_report(
    directories: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    data_directory: str | None = None,
) -> Path:
    """Writes one HTML page that opens from disk and asks for nothing.

    Args:
      directories: of a run or of a study; or of several runs, which are compared.
      output: the file; None is report.html in the one directory, or a name made of those of the runs. A page that this
        function wrote is replaced.
      data_directory: where the images lie now, if not where they were in training; without them, the page says what is
        missing.

    Returns:
      The file.

    Raises:
      InputError: a directory is none of a run or study, a run has no checkpoint or a study no result yet, the runs
        cannot be compared, or there is another file in the page's place.
      RunError: the file cannot be written.
    """
    paths = [Path(directory) for directory in directories]
    for path in paths:
        if not path.is_dir():
            raise InputError(
                f"{path} is {'a file' if path.exists() else 'not there'}; expected a run's or a study's directory"
            )
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"{', '.join(map(str, paths))} names a run twice; expected different runs")
    studies = [path for path in paths if is_study(path)]
    if studies and len(paths) > 1:
        raise InputError(f"{studies[0]} is a study's directory; expected runs where several are compared")
    file = _place(Path(_default(paths) if output is None else output))
    if studies:
        page = study.page(studies[0])
    elif len(paths) == 1:
        page = _page(open_run(paths[0], data_directory))
    else:
        page = comparison.page([open_run(path, data_directory) for path in paths])
    content = html(page).encode()
    run.make_directory(file.parent)
    run.write_file(file, content)
    return file


def _default(paths: Sequence[Path]) -> Path:
    if len(paths) == 1:
        return paths[0] / "report.html"
    first, second = (path.resolve().name for path in paths[:2])
    return Path(f"report-{first}-and-{second if len(paths) == 2 else f'{len(paths) - 1}-others'}.html")


def _place(file: Path) -> Path:
    """The path of a file that is not there, or that is an earlier page."""
    try:
        with file.open("rb") as stream:
            known = MARK.encode() in stream.read(1000)
    except FileNotFoundError:
        return file
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; expected a new file, as --output FILE") from error
    if not known:
        raise InputError(f"{file} exists and is no report of jaxcnn's; expected a new file, as --output FILE")
    return file


def _page(opened: Opened) -> Page:
    parts, left_out = [], {}
    for name, section in sections().items():
        try:
            context = section.gather(opened)
        except InputError as error:
            left_out.setdefault(str(error), []).append(section.title)
            continue
        if context is not None:
            parts.append(Part(name, section.title, f"sections/{name}.html", {"run": opened, **context}))
    data, spec = opened.experiment.data, opened.network.spec
    height, width, channels = spec.input_shape
    about = (
        f"{spec.title} on {data.dataset}: {spec.num_classes} classes of {height}×{width} "  # noqa: RUF001
        f"{'grey' if channels == 1 else 'colour'} images, experiment {opened.experiment.name}"
    )
    return Page(opened.title, "Run", about, parts, left_out)
