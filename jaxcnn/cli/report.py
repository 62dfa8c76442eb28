"""The command that writes the report of runs and studies."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from jaxcnn.cli.terminal import NOWHERE_ELSE, Json, Location, parse_arguments, print_json


def report(arguments: Sequence[str]) -> None:
    """Write one HTML page of a run, of several runs compared, or of a study, that opens anywhere without a network."""

    def parse(
        run: tyro.conf.Positional[str],
        others: tyro.conf.Positional[tuple[str, ...]] = (),
        output: str | None = None,
        data: Location = NOWHERE_ELSE,
        json: Json = False,
    ) -> tuple[str, tuple[str, ...], str | None, str | None, bool]:
        """Write one HTML page of a run, of several runs compared, or of a study, that opens without a network.

        Args:
          run: Run directory, or directory of a study.
          others: More run directories, which are compared with the first.
          output: File; by default report.html in the directory, and of several runs report-RUN-and-RUN.html.
          data: Where the images lie now.
          json: Print the result as one JSON object on standard output.
        """
        return run, others, output, data.directory, json

    run, others, output, location, as_json = parse_arguments(parse, "report", arguments)
    from jaxcnn.report.page.report import write_report

    file = write_report([run, *others], output=output, data_directory=location)
    if as_json:
        print_json({"output": str(file), "bytes": file.stat().st_size})
    else:
        print(file)
