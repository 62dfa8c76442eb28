"""What the commands share: parsing arguments, printing results."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from jaxcnn.errors import JaxcnnError

_PACKAGE = Path(__file__).parents[1]
Json = Annotated[bool, tyro.conf.arg(name="json", help="Print the result as one JSON object on standard output.")]


@dataclasses.dataclass(frozen=True)
class Location:
    """Where images lie."""

    directory: str | None = None
    """TFDS data directory or image folder, if not where it was in training."""


NOWHERE_ELSE = Location()
"""Where they were in training, or where TFDS keeps them."""


_FLAGS = ConstructorRegistry()


@_FLAGS.primitive_rule
def _numbers_by_name(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None:
    """One flag that replaces them all, as their order counts; by itself tyro would make each of a default a flag."""
    if info.type != Mapping[str, float]:
        return None
    spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(MutableMapping[str, float], info.markers))
    if isinstance(spec, UnsupportedTypeAnnotationError):
        return spec

    def read(texts: list[str]) -> Any:
        try:
            return spec.instance_from_str(texts)
        except ValueError:
            raise ValueError(f"{' '.join(texts)!r} is not names, each followed by a number") from None

    return dataclasses.replace(spec, instance_from_str=read)


_NUMBERS = {int: ("INT", "a whole number"), float: ("FLOAT", "a number")}


@_FLAGS.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A number, or None where that is allowed; by itself tyro would say what Python's constructors say of a text."""
    choices = get_args(info.type) if info.type_origin in (Union, UnionType) else (info.type,)
    kinds = [choice for choice in choices if choice is not NoneType]
    if len(kinds) != 1 or kinds[0] not in _NUMBERS:
        return None
    [kind], optional = kinds, len(choices) > 1
    metavar, expected = _NUMBERS[kind]

    def read(texts: list[str]) -> int | float | None:
        if optional and texts == ["None"]:
            return None
        try:
            return kind(texts[0])
        except ValueError:
            raise ValueError(f"{texts[0]!r} is not {expected}{' or None' if optional else ''}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{metavar}" if optional else metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, kind)) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def parse_arguments(
    function: Callable[..., Any], command: str, arguments: Sequence[str], description: str | None = None
) -> Any:
    """What `function` returns for the arguments; its signature and docstring are the flags and the help.

    Args:
      function: what parses.
      command: its name, for messages.
      arguments: what follows it on the command line.
      description: of the command; None takes the docstring's first line.
    """
    return tyro.cli(function, prog=f"jaxcnn {command}", args=list(arguments), description=description, registry=_FLAGS)


def exit_status(work: Callable[[], None]) -> int:
    """Does the work of a command, and says in a sentence on standard error what went wrong, or what it warns of.

    Returns:
      0; 1 where a run failed or a file could not be written; 2 for bad usage or input; 130 after Ctrl-C.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_say, otherwise=warnings.showwarning)
            work()
        sys.stdout.flush()
    except JaxcnnError as error:
        print(f"jaxcnn: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain about it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"jaxcnn: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jaxcnn: interrupted", file=sys.stderr)
        return 130
    return 0


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
    *,
    otherwise: Callable[..., None],
) -> None:
    """What the package itself warns of is for the user, who did not write the line that it comes from."""
    if Path(filename).is_relative_to(_PACKAGE) and issubclass(category, UserWarning):
        print(f"jaxcnn: {message}", file=sys.stderr)
    else:
        otherwise(message, category, filename, lineno, file, line)


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """The value of one flag, before the rest can be parsed."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return None


def print_table(rows: Mapping[str, str]) -> None:
    """Two aligned columns."""
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def print_json(value: Mapping[str, Any]) -> None:
    """One object on standard output; a number that is not finite is null, as in metrics.jsonl."""
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Any:
    """Where progress goes: standard error, so that standard output holds the result alone."""
    from rich.console import Console

    return Console(stderr=True)
