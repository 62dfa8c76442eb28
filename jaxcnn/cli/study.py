"""The command that trains and draws a study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from jaxcnn.cli.terminal import NOWHERE_ELSE, Json, Location, console, parse_arguments, print_json
from jaxcnn.study import Scale, require_seeds


def study(arguments: Sequence[str]) -> None:
    """Train the arms of a study, each from several seeds, and draw one figure and one table; continues what exists."""

    def parse(
        study: tyro.conf.Positional[str],
        scale: Scale = "quick",
        run: str | None = None,
        seeds: tuple[int, ...] | None = None,
        data: Location = NOWHERE_ELSE,
        json: Json = False,
    ) -> tuple[str, Scale, str | None, tuple[int, ...] | None, str | None, bool]:
        """Train the arms of a study, each from several seeds, and draw one figure and one table.

        Args:
          study: Name of a study, or a file that defines one; `jaxcnn studies` lists them.
          scale: How much is trained, minutes on two cores or as in the source.
          run: Directory, created or continued; by default runs/STUDY-SCALE.
          seeds: Seeds in place of the study's own; the files' names then say which.
          data: Where the images lie.
          json: Print the result as one JSON object on standard output.
        """
        return study, scale, run, seeds, data.directory, json

    name, scale, run, seeds, location, as_json = parse_arguments(parse, "study", arguments)
    from jaxcnn import catalog

    chosen, _ = catalog.load_study(name)
    directory = f"runs/{chosen.name}-{scale}" if run is None else run
    seeds = chosen.seeds if seeds is None else seeds
    require_seeds(seeds)
    from jaxcnn.train import study as training
    from jaxcnn.train import study_measures, study_tables
    from jaxcnn.train import study_results as results

    for asked in chosen.measures.values():
        study_measures.groups(asked, seeds)  # too few are found before hours of training
    finished = training.train(chosen, directory, scale=scale, seeds=seeds, data_directory=location, console=console())
    files, table, measured, split = [], [], {}, results.held_out(chosen, scale)
    if finished:
        from jaxcnn.figures import study as study_figure
        from jaxcnn.figures import style

        def panel(label: str, position: str, arms: Mapping[str, Sequence[Any]], log: bool) -> study_figure.Panel:
            return study_figure.Panel(
                label, position, {arm: study_figure.Points(*points) for arm, points in arms.items()}, log
            )

        where = {"scale": scale, "seeds": seeds}
        arms = results.collect(chosen, directory, **where)  # what is damaged is found before anything is measured
        study_measures.measure(chosen, directory, **where, data_directory=location, console=console())
        measured = study_measures.collect(chosen, directory, **where)
        table = results.rows(arms, seeds)
        if chosen.axis is None:
            bands = {
                panel: {arm: study_figure.Band(*curve) for arm, curve in lines.items()}
                for panel, lines in results.curves(arms).items()
            }
            diverged = [name for name, arm in arms.items() if arm.diverged]
            figure = study_figure.learning_curves(**bands, split=split, diverged=diverged)
        else:
            outcomes = study_tables.outcomes_along(chosen.axis, table, split)
            figure = study_figure.measures(
                [panel(title, chosen.axis.title, *found) for title, found in outcomes.items()]
            )
        files = study_tables.write(chosen, directory, scale, arms, seeds, measured)
        stem = f"{directory}/{study_tables.file_name(chosen, seeds)}"
        files += style.save(figure, stem)
        if drawn := study_measures.points(chosen, measured):
            panels = [panel(asked.title, asked.position, found, asked.log) for asked, found in drawn]
            files += style.save(study_figure.measures(panels), f"{stem}-measures")
    if as_json:
        rows = [dataclasses.asdict(row) for row in table]
        result = {"study": chosen.name, "scale": scale, "run": directory, "finished": finished, "arms": rows}
        print_json(result | {"measures": study_measures.as_rows(measured)})
    elif finished:
        print(study_tables.tables(chosen, table, split, measured), end="")
        for file in files:
            print(f"  {file}")
    else:
        print(f"{directory}: stopped; the same command continues")
