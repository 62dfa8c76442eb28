"""Where a search keeps its trials: a database, or Optuna's own server; and what is said when that fails."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from jaxcnn.errors import InputError, JaxcnnError, RunError, first_line

_PATIENCE = 10.0  # seconds for a server to answer


def connect(storage: str) -> optuna.storages.BaseStorage:
    """Opens a storage; what its driver raises is passed on.

    Args:
      storage: URL of a database, or grpc://HOST:PORT.

    Raises:
      InputError: a grpc address that is none.
    """
    if not storage.startswith("grpc://"):
        waiting = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite:") else {}
        return optuna.storages.RDBStorage(storage, engine_kwargs=waiting)
    matched = re.fullmatch(r"grpc://([^/:]+):(\d+)/?", storage)
    if not matched:
        raise InputError(f"storage is {storage!r}; expected grpc://HOST:PORT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        server = optuna.storages.GrpcStorageProxy(host=matched[1], port=int(matched[2]))
    server.wait_server_ready(timeout=_PATIENCE)
    return server


@contextmanager
def failures(where: str) -> Iterator[None]:
    """A storage that fails halfway ends the search as a failed run does.

    Args:
      where: the storage, as messages name it.

    Raises:
      RunError: it has failed.
    """
    try:
        yield
    except JaxcnnError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("optuna", "sqlalchemy", "grpc"):
            raise
        raise RunError(f"{where} has failed: {first_line(error)}; the same command continues") from error


def shown(storage: str) -> str:
    """A URL without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", storage)
