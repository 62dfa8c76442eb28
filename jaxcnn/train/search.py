"""Search for the settings that train best: trials that are ordinary runs, chosen and ended early by Optuna.

Everything about a search outlives its processes: Optuna's study in a database, and every trial in a run directory. A
trial belongs to the process that holds its lock, which the kernel releases however the process dies; whoever finds a
running trial without an owner continues it, as the same trial and in the same directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from jaxcnn import config
from jaxcnn.config import Experiment, Option
from jaxcnn.data import open_split
from jaxcnn.errors import CheckpointError, InputError, first_line
from jaxcnn.run import make_directory
from jaxcnn.train.evaluate import Evaluation
from jaxcnn.train.loop import located, train
from jaxcnn.train.recovery import Diverged
from jaxcnn.train.search_space import Space, apply, own
from jaxcnn.train.search_storage import connect, failures, shown

VALIDATION = 0.1
"""Share of the training images that trials are scored on, where the experiment holds out none."""

_SEARCH, _DATABASE = "search.json", "search.db"
_RANDOM = 10  # trials after the first one


@dataclass(frozen=True)
class Trial:
    """One training run of a search.

    Attributes:
      number: from 0, as in the name of its directory.
      state: "complete", "pruned" (ended early), "diverged", "refused" (its settings cannot be trained), or "running"
        (in another process, or stopped).
      parameters: the settings that the search chose, by dotted name.
      top1: accuracy on the held-out images after each epoch so far, in [0, 1].
      refusal: the sentence that says why, or "".
    """

    number: int
    state: Literal["complete", "pruned", "diverged", "refused", "running"]
    parameters: Mapping[str, Option]
    top1: tuple[float, ...]
    refusal: str = ""


@dataclass(frozen=True)
class Search:
    """What a search has found.

    Attributes:
      run: its directory.
      trials: in order of their numbers.
      best: the complete trial with the highest accuracy after its last epoch, the earliest of equals; or None.
      experiment: the searched experiment with the best trial's settings, or None; it holds out what that does, so
        that one without a validation split trains on all images and is scored on the test split.
      finished: whether there was nothing left to do; False after SIGTERM or Ctrl-C.
    """

    run: str
    trials: tuple[Trial, ...]
    best: Trial | None
    experiment: Experiment | None
    finished: bool


def search(
    experiment: Experiment,
    space: Space,
    directory: str | Path,
    *,
    trials: int = 20,
    storage: str | None = None,
    console: Console | None = None,
) -> Search:
    """Trains until the search has `trials` trials; what has been done before, here or elsewhere, counts.

    Trial 0 has the experiment's own settings, where they lie in the space; ten more are random, and then the
    tree-structured Parzen estimator chooses. A trial ends early when its best accuracy so far is below the median of
    the complete trials at the same epoch, once there are five and warm-up is over. (Hyperband, the alternative, needs
    several times as many trials to fill its brackets.) A trial whose settings cannot be trained, for which the images
    are too few or the memory too small, is refused, and the search goes on. Trial n's choices depend on the
    experiment's seed, n and the trials before it alone, so a search that one process does repeats, and is the same
    however often it was killed.

    Args:
      experiment: what to search around; if it holds out no images, trials hold out a tenth of the training images.
      space: the settings to vary.
      directory: of the search; created if absent, continued if it holds this search. Several processes may share it.
      trials: in all, whatever became of them.
      storage: where Optuna keeps the study if not in the directory: a database (postgresql://, mysql://, sqlite://) or
        Optuna's own server (grpc://HOST:PORT); the study has the directory's name.
      console: where a line for each trial is written; None is silent.

    Returns:
      All trials of the search, and the best.

    Raises:
      InputError: the storage cannot be opened, or the experiment's own settings or images cannot be used.
      CheckpointError: the directory or the storage's study of that name holds something else, or a trial is damaged.
      RunError: a run or the storage fails; the same call continues. A trial that diverges is not a failure.

    Reference: Akiba, Sano, Yanase, Ohta & Koyama, "Optuna: a next-generation hyperparameter optimization framework",
    2019.
    """
    if trials < 1:
        raise InputError(f"trials is {trials}; expected at least 1")
    console = console or Console(quiet=True)
    directory = Path(directory)
    share = experiment.data.validation or VALIDATION
    if not experiment.data.validation:
        console.print(f"no images are held out: trials hold out data.validation {share}", highlight=False)
    experiment = located(experiment)  # as all its trials and best.py are, whatever folder the search goes on from
    tried = replace(
        experiment,
        data=replace(experiment.data, validation=share),
        training=replace(experiment.training, max_rollbacks=0),
    )
    described = {
        "experiment": config.to_json(tried),
        "space": {name: json.loads(distribution_to_json(varied)) for name, varied in space.items()},
        "shared": storage is not None,
    }
    _claim_directory(directory, described)
    searching = _Searching(tried, space, directory, trials, console)
    finished = True
    with failures(shown(storage) if storage else _DATABASE):
        with searching.locked():
            study = _study(directory, storage, described, math.ceil(experiment.optimizer.warmup_epochs))
        while finished and (claimed := searching.claim(study, shared=storage is None)) is not None:
            trial, descriptor = claimed
            try:
                finished = searching.train(study, trial)
            finally:
                os.close(descriptor)
        known = tuple(_trial(frozen) for frozen in _counted(study))
    best = max((t for t in known if t.state == "complete"), key=lambda t: t.top1[-1], default=None)
    found = replace(apply(experiment, best.parameters), name=f"{experiment.name}_best") if best else None
    return Search(str(directory), known, best, found, finished)


@dataclass(frozen=True)
class _Searching:
    experiment: Experiment
    space: Space
    directory: Path
    trials: int
    console: Console

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among the processes that share the directory, for as long as it takes to choose a trial or end it."""
        descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def claim(self, study: optuna.Study, *, shared: bool) -> tuple[optuna.Trial, int] | None:
        """A trial to train and the descriptor that holds its lock, or None where enough trials are done or under way.

        Args:
          study: of the search.
          shared: whether everyone who knows the study shares this directory. If not, a trial that has no lock here
            is another machine's.
        """
        with self.locked():
            for frozen in _counted(study):
                here = shared or self._lock_of(frozen.number).exists()
                if frozen.state == TrialState.RUNNING and here:
                    descriptor = self._try_lock(frozen.number)
                    if descriptor is not None:
                        trial = optuna.Trial(study, frozen._trial_id)  # takes up what has been asked for before
                        return self._choose(study, trial, descriptor)
            if len(_counted(study)) >= self.trials:
                return None
            trial = study.ask()
            # Machines that share no directory may have asked at the same moment.
            if sum(other.number < trial.number for other in _counted(study)) >= self.trials:
                study.tell(trial, state=TrialState.FAIL)
                return None
            descriptor = self._try_lock(trial.number)
            assert descriptor is not None
            return self._choose(study, trial, descriptor)

    def _choose(self, study: optuna.Study, trial: optuna.Trial, descriptor: int) -> tuple[optuna.Trial, int]:
        try:
            self._suggest(study, trial)
        except BaseException:
            os.close(descriptor)
            raise
        return trial, descriptor

    def _suggest(self, study: optuna.Study, trial: optuna.Trial) -> None:
        """Chooses the trial's settings; those that were chosen before a kill stay."""
        seed = np.random.SeedSequence([self.experiment.training.seed, trial.number]).generate_state(1)
        sampler = optuna.samplers.TPESampler(seed=int(seed[0]), n_startup_trials=1 + _RANDOM)
        # All are drawn before the first is written down, so that a kill in between changes none of them.
        frozen = _frozen(study, trial.number)
        drawn = sampler.sample_relative(study, frozen, sampler.infer_relative_search_space(study, frozen))
        for name, varied in self.space.items():
            if name not in drawn:
                drawn[name] = sampler.sample_independent(study, frozen, name, varied)
        first = own(self.experiment, self.space) if trial.number == 0 else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.PartialFixedSampler(first or drawn, sampler)
        for name, varied in self.space.items():
            if isinstance(varied, CategoricalDistribution):
                trial.suggest_categorical(name, varied.choices)
            elif isinstance(varied, IntDistribution):
                trial.suggest_int(name, varied.low, varied.high, step=varied.step, log=varied.log)
            else:
                trial.suggest_float(name, varied.low, varied.high, log=varied.log)

    def train(self, study: optuna.Study, trial: optuna.Trial) -> bool:
        """Trains a trial and tells the study; False where it was asked to stop before the end."""
        epochs, where = self.experiment.training.epochs, self.directory / f"trial-{trial.number:04d}"
        label = f"trial {trial.number}"
        with self.console.status(f"{label}: compiling") as status:

            def evaluated(epoch: int, scores: Evaluation) -> None:
                if epoch not in reported:  # what was done before a kill is told again, with the same scores
                    trial.report(scores.top1, epoch)
                status.update(f"{label}: epoch {epoch}/{epochs}  accuracy {scores.top1:.4f}")
                if epoch < epochs and trial.should_prune():
                    raise optuna.TrialPruned

            reported = _frozen(study, trial.number).intermediate_values
            state, top1 = TrialState.PRUNED, None
            try:
                result = train(apply(self.experiment, trial.params), where, evaluated=evaluated)
                if not result.finished:
                    return False
                state, top1 = TrialState.COMPLETE, result.top1
            except optuna.TrialPruned:
                pass
            except Diverged as diverged:
                trial.set_user_attr("diverged", str(diverged))
            except CheckpointError:
                raise
            except (InputError, jax.errors.JaxRuntimeError) as error:
                trial.set_user_attr("refused", self._refusal(trial.number, error))
        with self.locked():
            study.tell(trial, top1, state)
            self._lock_of(trial.number).unlink(missing_ok=True)
        self.console.print(line(_trial(_frozen(study, trial.number))), highlight=False, soft_wrap=True)
        return True

    def _refusal(self, number: int, error: Exception) -> str:
        """Why a trial cannot be trained; raises where that is not for the settings that the search chose."""
        if isinstance(error, jax.errors.JaxRuntimeError):
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise error
            error = InputError(f"training does not fit in memory ({first_line(error)}); expected smaller settings")
        open_split(self.experiment.data, "train", self.experiment.training.seed)  # the images may have gone since
        if number == 0 and own(self.experiment, self.space) is not None:
            raise error
        return str(error)

    def _lock_of(self, number: int) -> Path:
        return self.directory / f".trial-{number:04d}.lock"

    def _try_lock(self, number: int) -> int | None:
        descriptor = os.open(self._lock_of(number), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def line(trial: Trial) -> str:
    """What is said of a trial at its end."""
    chosen = "  ".join(f"{name} {_short(value)}" for name, value in trial.parameters.items())
    accuracy = f"  accuracy {trial.top1[-1]:.4f}" if trial.top1 else ""
    epochs = f" after epoch {len(trial.top1)}" if trial.state in ("pruned", "diverged") else ""
    refusal = f": {trial.refusal}" if trial.refusal else ""
    return f"trial {trial.number}  {chosen}{accuracy}  {trial.state}{epochs}{refusal}"


def _short(value: Option) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _claim_directory(directory: Path, described: dict[str, Any]) -> None:
    """Refuses a directory that holds something else, and marks a new one."""
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; expected a directory, new or of a search")
    path = directory / _SEARCH
    # A process killed while it created the search leaves its temporary file.
    others = directory.exists() and any(not child.name.startswith(f".{_SEARCH}.") for child in directory.iterdir())
    if others and not path.exists():
        raise CheckpointError(f"{directory} is not empty and holds no search; choose another --run")
    make_directory(directory)
    partial = directory / f".{_SEARCH}.{os.getpid()}"
    partial.write_text(json.dumps(described, indent=2, allow_nan=False) + "\n")
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)  # unlike a renaming, this replaces nothing
    partial.unlink()
    try:
        before = json.loads(path.read_bytes())
        changed, shared = _difference(before, described), before["shared"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if changed:
        raise CheckpointError(f"{directory} holds another search: {changed}; choose another --run")
    if shared != described["shared"]:
        where, expected = ("a shared storage", "the same --storage") if shared else (_DATABASE, "no --storage")
        raise CheckpointError(f"{directory} holds a search that is kept in {where}; expected {expected}")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What makes two searches train differently, or None."""
    experiments = [located(config.from_json(Experiment, described["experiment"])) for described in (before, now)]
    if changed := config.difference(*experiments):
        return changed
    old, new = before["space"], now["space"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name} varied over {old.get(name)} and now varies over {new.get(name)}"
    return None


def _study(directory: Path, storage: str | None, described: dict[str, Any], warmup: int) -> optuna.Study:
    """Optuna's study of the search, created if it is new."""
    optuna.logging.disable_default_handler()  # what it would print, a line for each trial says
    try:
        study = optuna.create_study(
            storage=connect(storage or f"sqlite:///{directory.absolute() / _DATABASE}"),
            study_name=directory.absolute().name if storage else "search",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup + 1),
            load_if_exists=True,
        )
    except InputError:
        raise
    except Exception as error:  # whatever the driver of a database raises
        where = shown(storage) if storage else str(directory / _DATABASE)
        raise InputError(f"{where} cannot be opened: {first_line(error)}") from error
    if "search" not in study.user_attrs:
        study.set_user_attr("search", described)
    elif changed := _difference(study.user_attrs["search"], described):
        where = f"the study {study.study_name} of {shown(storage or _DATABASE)}"
        raise CheckpointError(f"{where} is of another search: {changed}; choose a --run of another name")
    return study


def _counted(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of the study but those that were one too many, which have the state that nothing else is given."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _frozen(study: optuna.Study, number: int) -> FrozenTrial:
    return next(trial for trial in study.get_trials(deepcopy=False) if trial.number == number)


def _trial(frozen: FrozenTrial) -> Trial:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}
    state = states[frozen.state]
    if state == "pruned":  # which Optuna's sampler learns from, as from no other end without a score
        state = next((end for end in ("diverged", "refused") if end in frozen.user_attrs), state)
    top1 = tuple(frozen.intermediate_values[epoch] for epoch in sorted(frozen.intermediate_values))
    refusal = frozen.user_attrs["refused"] if state == "refused" else ""
    return Trial(frozen.number, state, frozen.params, top1, refusal)  # type: ignore[arg-type]
