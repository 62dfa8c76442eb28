"""One process of several that train together, watched by another, so that whatever ends it is said in a sentence."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from jaxcnn.cli.terminal import exit_status

_APART = (
    "the processes did not come together within five minutes; expected as many with this command as the job says, and "
    "a first process that all of them reach"
)
_LOST = (
    "another process of the run died or cannot be reached, and its own output says why; the same command on every "
    "machine continues from the last checkpoint"
)


def run_as_member(work: Callable[[Callable[[], None]], None]) -> None:
    """Does `work` in a child process, and exits as it does.

    JAX aborts a process whose job has lost another one, with no exception to catch. The parent sees that and says it.
    A request to end goes on to the child, and if the parent dies, so does the child. It forks, so it comes before
    anything that starts threads, as importing jax does.

    Args:
      work: what to do; fails as a command does. It is given what it calls when the processes have come together.
    """
    reading, writing = os.pipe()
    hearing, saying = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.close(hearing)
        threading.Thread(target=_end_with_parent, args=(reading,), daemon=True).start()
        # Gloo says on standard output that it is connected, where the result alone belongs.
        sys.stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w")
        os.dup2(sys.stderr.fileno(), 1)

        def joined() -> None:
            os.write(saying, b"!")

        status = exit_status(lambda: work(joined))
        sys.stdout.flush()
        if status:
            os._exit(status)  # an orderly exit would wait for the other processes, which are to notice
        sys.exit()
    os.close(reading)
    os.close(saying)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to the child as well
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        sys.exit(code)
    if -code == signal.SIGINT:
        print("jaxcnn: interrupted", file=sys.stderr)
        sys.exit(130)
    aborted = _LOST if os.read(hearing, 1) else _APART
    print(
        f"jaxcnn: {aborted if -code == signal.SIGABRT else f'ended with {signal.Signals(-code).name}'}", file=sys.stderr
    )
    sys.exit(1)


def _end_with_parent(pipe: int) -> None:
    os.read(pipe, 1)  # nobody writes: it returns when the other end closes
    os._exit(1)
