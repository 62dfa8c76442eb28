"""The jaxcnn command: parses, calls, prints. Exit status 0; 1 where a run failed; 2 for bad usage or input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from jaxcnn.allocator import keep_freed_memory
from jaxcnn.cli.attack import attack
from jaxcnn.cli.dynamics import dynamics
from jaxcnn.cli.explain import filters, patches
from jaxcnn.cli.fool import fool
from jaxcnn.cli.lesion import lesion
from jaxcnn.cli.lists import datasets, experiments, models, studies
from jaxcnn.cli.maximize import maximize
from jaxcnn.cli.networks import convert, probe, summary
from jaxcnn.cli.report import report
from jaxcnn.cli.retrain import retrain
from jaxcnn.cli.runs import demo, evaluate, figures, train
from jaxcnn.cli.saliency import occlusion, saliency, trust
from jaxcnn.cli.search import search
from jaxcnn.cli.study import study
from jaxcnn.cli.terminal import exit_status
from jaxcnn.compilation import keep_compiled
from jaxcnn.errors import unknown_name

COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    command.__name__: command
    for command in (
        demo,
        train,
        evaluate,
        figures,
        summary,
        convert,
        probe,
        filters,
        patches,
        saliency,
        occlusion,
        trust,
        lesion,
        dynamics,
        maximize,
        fool,
        retrain,
        attack,
        report,
        study,
        search,
        models,
        datasets,
        experiments,
        studies,
    )
}

COMPILING = frozenset(
    {
        "demo",
        "train",
        "evaluate",
        "figures",
        "probe",
        "patches",
        "saliency",
        "occlusion",
        "trust",
        "lesion",
        "dynamics",
        "maximize",
        "fool",
        "retrain",
        "attack",
        "report",
        "study",
        "search",
    }
)
"""The commands that compile more than they take to start."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits.

    Args:
      arguments: what follows `jaxcnn` on the command line; None takes it from there.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if status := exit_status(lambda: _run(arguments)):
        sys.exit(status)


def _run(arguments: Sequence[str]) -> None:
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
    # Not with --distributed: one process would wait for others to compile with it what those have found.
    if name in COMPILING and not {"-h", "--help", "--distributed"} & {*rest} and (complaint := keep_compiled()):
        print(f"jaxcnn: {complaint}", file=sys.stderr)
    COMMANDS[name](rest)


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
