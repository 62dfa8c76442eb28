"""What MkDocs adds to the written pages: the reference of every module, the command line's help, the notebooks."""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "jaxcnn"
BESIDE = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md", "../notebooks/": "notebooks/"}
"""What lies beside docs/ in the repository, and within the site."""
NOT_A_LIBRARY = ("jaxcnn.__main__", "jaxcnn.cli")
"""What is run and not imported; the page of the command line says what it does."""
TEXT_WIDTH = 6.9  # inches, of a figure that fills the column
WIDTH = 80  # characters, of the command line's help
FLAG = re.compile(r"(?<![\w-])--[a-z][\w.-]*(?![^<]*>)")
JOINT = re.compile(r"(?<=[a-z0-9])(?:_|::)(?=[a-z0-9])(?![^<]*>)")
"""Of the words of a name: outside of tags."""
RAISED = {"DeadMapWarning": "jaxcnn.analysis.attribution", "Diverged": "jaxcnn.train.recovery"} | dict.fromkeys(
    ("JaxcnnError", "InputError", "CheckpointError", "DamagedCheckpoint", "RunError"), "jaxcnn.errors"
)
"""Where the exceptions are that docstrings name, which a module need not import to let one pass."""
UNLINKED = re.compile(rf"(?<=<code>)(\(?(?:<autoref [^\n]*?</autoref>, )?)({'|'.join(RAISED)})(?=\)?</code>|, )")
GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "mu": "μ", "sigma": "σ"}  # noqa: RUF001
FORMULA = {
    r"(\w)_hat\b": "\\1\u0302",
    r"sigma2\b": "σ²",
    rf"(?<![A-Za-z])(d?)({'|'.join(GREEK)})\b": lambda found: found[1] + GREEK[found[2]],
    r"\bfloor\((.*)\)(?= \+)": r"⌊\1⌋",
    r"(?<=[A-Za-z])_(?:\((.+?)\)|(\w+))": r"<sub>\1\2</sub>",
    r"\^(\w+)": r"<sup>\1</sup>",
    r"\b(d?[fxzXZ])(\d\d)\b": r"\1<sub>\2</sub>",
    r"(?<=\d)x(?=\d)": "×",  # noqa: RUF001
    r"(?<=[\s(])-(?=[\s\w])|(?<=l)-(?=1<)": "−",  # noqa: RUF001
    r"&gt;=": "≥",
    r"\+-(?=\d)": "±",
    r"\bsum(?=[ <])": "Σ",
    r"\bsqrt(?=\()": "√",
    r"\|\|": "‖",
}
"""How formulas are shown that the pages write as code does."""


def modules() -> list[str]:
    """Dotted names of the package's public modules, each package before what is in it."""
    names = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        private = any(part.startswith("_") for part in name.split("."))
        if not private and not any(name == other or name.startswith(f"{other}.") for other in NOT_A_LIBRARY):
            names.append(name)
    return sorted(names, key=lambda name: name.split("."))


def on_config(config: Any) -> Any:
    """Adds what is generated to the navigation."""
    names = modules()

    def entry(name: str) -> dict[str, Any]:
        inner = [other for other in names if other.rpartition(".")[0] == name]
        pages = [_page(name), *(entry(other) for other in inner)] if inner else _page(name)
        return {name.rpartition(".")[2]: pages}

    top = [other for other in names if other.count(".") == 1]
    reference = ["reference.md", {"The command line": "command_line.md"}, *(entry(name) for name in top)]
    config.nav.append({"Reference": reference})
    config.nav.append({"Development": [{"Contributing": "contributing.md"}, {"Changes": "changelog.md"}]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are generated, and the notebooks as they are."""
    names = modules()
    for name in names:
        inner = [other for other in names if other.rpartition(".")[0] == name]
        listed = f"\n\n## Modules\n\n{_table(inner, name)}" if inner else ""
        if name != PACKAGE:
            files.append(File.generated(config, _page(name), content=f"# {name}\n\n::: {name}{listed}\n"))
    top = _table([name for name in names if name.count(".") == 1], PACKAGE)
    text = f"# Reference\n\nEvery module, from its docstrings.\n\n{top}\n\n::: {PACKAGE}\n"
    files.append(File.generated(config, "reference.md", content=text))
    files.append(File.generated(config, "command_line.md", content=_command_line()))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for name, page in BESIDE.items():
        if page.endswith(".md"):
            files.append(File.generated(config, page, content=(ROOT / "docs" / name).resolve().read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leads links to what lies beside docs/ to where the site has it, and writes a command as one line."""
    if page.parent is None:  # nothing beside it to be navigated to
        page.meta.setdefault("hide", []).append("navigation")
    for there, here in BESIDE.items():
        markdown = markdown.replace(f"]({there}", f"]({here}")
    return re.sub(r" \\\n +(?=--)", " ", markdown)  # the page wraps commands as its width asks


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Shows figures at one scale, each leading to itself in full, and breaks commands and names between their words."""
    html = re.sub(r"<img [^>]*>", lambda found: _figure(found[0], files), html)
    commands = r'<div class="language-bash.*?</div>|(?<!<pre>)(?<!</span>)<code>.*?</code>'
    whole = r'<span class="flag">\g<0></span>'
    html = re.sub(commands, lambda found: FLAG.sub(whole, found[0]), html, flags=re.DOTALL)
    if page.file.src_uri.startswith("reference/"):
        html = re.sub(UNLINKED, _link, html)
    if page.file.src_uri == "mathematics.md":
        html = re.sub(r"<t[dh]>(?:(?!<code>|</t[dh]>).)*</t[dh]>", lambda found: _typeset(found[0]), html)
    in_a_table = r"<td[^>]*>.*?</td>"
    return re.sub(in_a_table, lambda found: JOINT.sub(r"\g<0><wbr>", found[0]), html, flags=re.DOTALL)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The page for an address that is none, as the theme's seeks its style from the root of the server."""
    return (ROOT / "docs/site/404.html").read_text() if template_name == "404.html" else output_content


def _link(raised: re.Match[str]) -> str:
    before, name = raised.groups()
    return f'{before}<autoref identifier="{RAISED[name]}.{name}">{name}</autoref>'


def _typeset(formula: str) -> str:
    for written, shown in FORMULA.items():
        formula = re.sub(written, shown, formula)
    return formula


def _figure(tag: str, files: Files) -> str:
    found = re.search(r'src="([^"]+)"', tag)
    file = files.get_file_from_path(found[1]) if found else None
    if file is None or file.abs_src_path is None:
        return tag
    if "width=" not in tag:
        with Image.open(file.abs_src_path) as image:
            inches = image.width / image.info.get("dpi", (200, 200))[0]
        tag = tag.replace("<img ", f'<img style="--share: {min(inches / TEXT_WIDTH, 1):.0%}" ')
    return f'<a class="figure" href="{file.url}">{tag}</a>'


def _page(name: str) -> str:
    return f"reference/{name}.md"


def _table(names: list[str], above: str) -> str:
    folder = "reference/" if above == PACKAGE else ""
    rows = [f"| [{name.removeprefix(f'{above}.')}]({folder}{name}.md) | {_summary(name)} |" for name in names]
    return "\n".join(["| module | |", "| --- | --- |", *rows])


def _summary(name: str) -> str:
    """The first line of a module's docstring."""
    path = ROOT.joinpath(*name.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    found = re.match(r'"""(.*?)(?:"""|\n)', text)
    return (found[1] if found else "").replace("|", "\\|")


def _command_line() -> str:
    """`--help` of every command, each under its name."""
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", TERM="dumb")
    from jaxcnn import cli

    sections = []
    for name in cli.COMMANDS:
        arguments = [name, "lenet5_digits", "--help"] if name == "train" else [name, "--help"]
        help_text = io.StringIO()
        with contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
            cli.main(arguments)
        lines = help_text.getvalue().strip().splitlines()
        text = "\n".join(line.rstrip() if len(line) <= WIDTH else textwrap.fill(line, WIDTH) for line in lines)
        text = text.replace(str(Path.home()), "~")
        sections.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "# The command line\n\nWhat `jaxcnn COMMAND --help` prints.\n\n" + "\n".join(sections)
