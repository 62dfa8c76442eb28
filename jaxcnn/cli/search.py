"""The command that searches for settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jaxcnn.cli import settings
from jaxcnn.cli.terminal import Json, console, parse_arguments, print_json
from jaxcnn.config import Experiment
from jaxcnn.errors import RunError

if TYPE_CHECKING:
    from jaxcnn.train.search import Search
    from jaxcnn.train.search_space import Space


def search(arguments: Sequence[str]) -> None:
    """Search for the settings with which an experiment trains best; a search that exists is continued."""
    usage = (
        "usage: jaxcnn search EXPERIMENT [--vary SETTING LOW:HIGH[:log|:STEP]|A,B,C ...]\n"
        "                     [--trials N] [--run DIR] [--storage URL] [--json]\n"
        "                     [--SETTING VALUE ...]\n\n"
        "Search for the settings with which an experiment trains best; a search that\n"
        "exists is continued. By default it varies the learning rate and the weight\n"
        "decay, each over a factor of 100."
    )
    name, rest = settings.split("search", usage, arguments)
    default, description = settings.default(name, rest)

    def parse(
        experiment: Annotated[Experiment, tyro.conf.arg(name="")] = default,
        vary: Mapping[str, str] = {},
        trials: int = 20,
        run: str = f"runs/{default.name}_search",
        storage: str | None = None,
        json: Json = False,
    ) -> tuple[Experiment, Mapping[str, str], int, str, str | None, bool]:
        """Arguments.

        Args:
          experiment: What to search around.
          vary: Settings and what to try: LOW:HIGH, LOW:HIGH:log, LOW:HIGH:STEP, or choices A,B,C; for example
            `optimizer.learning-rate 0.001:1:log model.options.depth 1:4`; by default learning rate and weight decay.
          trials: Runs in all; a search that has fewer is continued.
          run: Directory of the search, created or continued; several processes may share it.
          storage: Where several machines keep the search: a database (postgresql://, mysql://, sqlite://) or Optuna's
            server (grpc://HOST:PORT); by default a file in the directory.
          json: Print the result as one JSON object on standard output.
        """
        return experiment, vary, trials, run, storage, json

    experiment, varied, trials, directory, storage, as_json = parse_arguments(
        parse, f"search {name}", rest, description
    )
    from jaxcnn.train import search_results, search_space
    from jaxcnn.train.search import search as search_settings

    space = search_space.parse(experiment, varied) if varied else search_space.default(experiment)
    result = search_settings(experiment, space, directory, trials=trials, storage=storage, console=console())
    files = [*search_results.write(result), *_draw(result, space)]
    states = [trial.state for trial in result.trials]
    best = result.best
    if as_json:
        print_json(
            {
                "run": result.run,
                "top1": best and best.top1[-1],
                "parameters": best and best.parameters,
                "trials": {
                    state: states.count(state) for state in ("complete", "pruned", "diverged", "refused", "running")
                },
                "finished": result.finished,
            }
        )
    else:
        _print_trials(search_results.rows(result))
        for path in files:
            print(path)
        if best is not None:
            print(f"best: trial {best.number}, accuracy {best.top1[-1]:.4f}; jaxcnn train {result.run}/best.py")
        if not result.finished:
            print(f"{result.run}: stopped; the same command continues")
    if result.finished and best is None and "running" not in states:
        raise RunError(f"none of the {len(states)} trials of {result.run} was complete; expected one that learns")


def _print_trials(rows: Sequence[Mapping[str, Any]]) -> None:
    table = [list(dict.fromkeys(name for row in rows for name in row))]
    for row in rows:
        cells = (row.get(name, "") for name in table[0])
        table.append([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())


def _draw(result: Search, space: Space) -> list[Path]:
    ended = [trial for trial in result.trials if trial.state != "running"]
    if not ended:
        return []
    from jaxcnn.figures import search as search_figure
    from jaxcnn.figures import style

    figure = search_figure.trials(
        [trial.number for trial in ended],
        [trial.top1[-1] if trial.top1 else float("nan") for trial in ended],
        [trial.state for trial in ended],
        {name: [trial.parameters[name] for trial in ended] for name in space},
        log={name for name, varied in space.items() if getattr(varied, "log", False)},
    )
    return style.save(figure, Path(result.run) / "figures" / "search")
