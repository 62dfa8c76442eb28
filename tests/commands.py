"""The command line as the tests call it."""

from __future__ import annotations

from jaxcnn import cli


def invoke(capsys, *arguments: object) -> tuple[object, str, str]:
    """Exit status, standard output and standard error of a command, run in this process."""
    status: object = 0
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        status = exit_.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err
