"""The jaxcnn command: parses, calls, prints. Exit status 0; 1 where a run failed; 2 for bad usage or input."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from jaxcnn.allocator import keep_freed_memory
from jaxcnn.cli.lists import datasets, experiments, models
from jaxcnn.cli.networks import convert, probe, summary
from jaxcnn.cli.runs import demo, evaluate, figures, train
from jaxcnn.errors import JaxcnnError, unknown_name

COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    command.__name__: command
    for command in (demo, train, evaluate, figures, summary, convert, probe, models, datasets, experiments)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits.

    Args:
      arguments: what follows `jaxcnn` on the command line; None takes it from there.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_overview())
            sys.exit(0 if arguments else 2)
        if arguments[0] == "--version":
            from importlib.metadata import version

            print(f"jaxcnn {version('jaxcnn')}")
            return
        name, *rest = arguments
        if name not in COMMANDS:
            raise unknown_name("command", name, COMMANDS)
        keep_freed_memory()
        COMMANDS[name](rest)
        sys.stdout.flush()
    except JaxcnnError as error:
        print(f"jaxcnn: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has seen enough; Python would complain about it again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        print(f"jaxcnn: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("jaxcnn: interrupted", file=sys.stderr)
        sys.exit(130)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {(command.__doc__ or '').rstrip('.')}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxcnn COMMAND [--help] ...",
            "",
            "Convolutional networks in JAX: built as published, trained reproducibly, and explained.",
            "",
            *lines,
        ]
    )
