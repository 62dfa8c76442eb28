"""How little must be changed in images to fool a network: images that do, and the accuracy under attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxcnn.analysis import adversarial, attribution
from jaxcnn.analysis.adversarial import Attack
from jaxcnn.analysis.robustness import Robustness, robust_accuracy
from jaxcnn.config import check_seed
from jaxcnn.errors import InputError
from jaxcnn.figures import attack as figures
from jaxcnn.report import results
from jaxcnn.report.saliency import Chosen, choose
from jaxcnn.report.subject import Subject

EPSILONS = ("2/255", "4/255", "8/255", "16/255", "32/255")
"""Largest changes of a pixel, where none are given."""
EPSILONS_L2 = ("0.25", "0.5", "1", "2")
"""Euclidean norms of the change, where none are given."""
SHOWN = 6
"""Images in the figure of an attack."""

_FLAGS = {"linf": "epsilon", "l2": "epsilon_l2"}
_BOUNDS = {"linf": "does not bound the change of a pixel", "l2": "does not bound the Euclidean norm of the change"}


@dataclass(frozen=True)
class Attacked:
    """What attacks did to a network, measured and drawn.

    Attributes:
      folder: what was written.
      files: in it.
      targeted: whether a network is fooled by saying a target, rather than anything but the label.
      accuracy: of the network as it is; of a targeted attack, the share of images that are no targets as they are.
      chosen: the images, with the classes that the network predicts.
      found: what each attack did, by its name.
    """

    folder: Path
    files: list[Path]
    targeted: bool
    accuracy: float
    chosen: Chosen
    found: dict[str, Robustness]


def draw_attack(
    subject: Subject,
    *,
    methods: Sequence[str] = ("fgsm", "pgd"),
    epsilons: Sequence[str] = (),
    epsilons_l2: Sequence[str] = (),
    targets: Sequence[str] = (),
    steps: int | None = None,
    limit: int = 100,
    seed: int = 0,
    output: str | Path | None = None,
) -> Attacked:
    """Attacks images in several ways, and draws images that fool the network and the accuracy under attack.

    Args:
      subject: the network and the images; photographs without labels count as what the network takes them for.
      methods: names of attacks.
      epsilons: by how much a pixel may change, as "8/255" or "0.03"; none are `EPSILONS`.
      epsilons_l2: Euclidean norms that the change may have, for attacks that are bounded by it; none are `EPSILONS_L2`.
      targets: names or numbers of the classes that the network shall say, one for all images or one for each; none is
        any other class than the label.
      steps: of iterative attacks; None is each one's own number.
      limit: most images, taken at equal distances from all.
      seed: of the key of what is drawn at random.
      output: the new folder; None calls it after the network.

    Raises:
      InputError: there is no such attack or class, an epsilon is no distance, none of the attacks is bounded by it, an
        attack has no targets, none has steps, the network has other classes than the images, or the folder exists.
    """
    network = subject.network
    folder = results.new_folder(f"attack-{network.title}" if output is None else output)
    attacks = {name: adversarial.attack(name) for name in methods}
    if not attacks:
        raise InputError(f"no attack was named; expected some of {', '.join(adversarial.attacks())}")
    for attack in attacks.values():
        if targets and not attack.takes("targets"):
            raise InputError(f"targets were given; expected none with {attack.title}, which has no targets")
    if steps is not None and not any(attack.takes("steps") for attack in attacks.values()):
        raise InputError(f"steps is {steps}; expected none with {', '.join(attacks)}, which take one step")
    for norm, given in (("linf", epsilons), ("l2", epsilons_l2)):
        if given and not any(attack.bounded and attack.norm == norm for attack in attacks.values()):
            raise InputError(
                f"{_FLAGS[norm]} is {', '.join(given)}; expected none with {', '.join(attacks)}, which {_BOUNDS[norm]}"
            )
    within = {
        "linf": tuple(distance(text, most=1.0) for text in epsilons or EPSILONS),
        "l2": tuple(map(distance, epsilons_l2 or EPSILONS_L2)),
    }
    check_seed(seed)
    chosen = choose(subject, limit=limit)
    labels = _labels(chosen)
    wanted = choose(subject, targets, limit=limit).targets if targets else None

    found = {
        name: robust_accuracy(
            network.model,
            network.state,
            chosen.images,
            labels,
            attack,
            sorted(within[attack.norm]) if attack.bounded else None,
            targets=wanted,
            steps=steps if attack.takes("steps") else None,
            key=jax.random.key(seed),
        )
        for name, attack in attacks.items()
    }
    arrays: dict[str, np.ndarray] = {"labels": labels, "predicted": chosen.targets, "images": chosen.images}
    arrays |= {name: chosen.arrays[name] for name in ("indices", "files") if name in chosen.arrays}
    drawn = {}
    for name, robustness in found.items():
        arrays |= {f"{name}_epsilons": robustness.epsilons, f"{name}_fooled": robustness.fooled}
        for field in adversarial.Adversarial._fields:
            arrays[f"{name}_{field}"] = np.stack([np.asarray(getattr(one, field)) for one in robustness.found])
        drawn[name] = _examples(chosen, attacks[name], robustness)
    count = len(labels)
    drawn["accuracy"] = figures.curves(
        {
            attacks[name].title: _curve(attacks[name], robustness, targeted=bool(targets))
            for name, robustness in found.items()
        },
        images=f"{count:,} {subject.origin}",
        quantity="taken for the target" if targets else "accuracy",
    )
    about = {
        "command": "attack",
        "methods": list(attacks),
        "references": [attack.reference for attack in attacks.values()],
        "targets": None if wanted is None else wanted.tolist(),
        "steps": steps,
        "limit": limit,
        "seed": seed,
        "labelled": subject.labelled,
        **subject.about(),
    }
    files = results.write(folder, "attack", arrays, about, drawn)
    before = next(iter(found.values())).before
    return Attacked(folder, files, bool(targets), 1 - float(before.mean()), chosen, found)


def distance(text: str, *, most: float = math.inf) -> float:
    """A distance as it is written on the command line.

    Args:
      text: a number or a fraction, as "0.03", "8/255" or "0.5/255".
      most: largest that there is.

    Raises:
      InputError: it is no finite number of at least 0, or larger than the largest.
    """
    above, stroke, below = text.partition("/")
    try:
        value = float(above) / float(below if stroke else 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"epsilon is {text}; expected a number of at least 0, as 0.03 or 8/255")
    if value > most:
        raise InputError(
            f"epsilon is {text}; expected at most {most:g}, as pixels lie in [0, 1] (of 255 levels, N/255)"
        )
    return value


def values(drawn: Attacked) -> dict[str, Any]:
    """What was measured, as JSON values; what was made of each image is in the arrays."""
    attacks = []
    for name, robustness in drawn.found.items():
        attack = adversarial.attack(name)
        measured = {
            "method": name,
            "norm": attack.norm,
            "epsilons": robustness.epsilons.tolist(),
            "accuracy": robustness.accuracy.tolist(),
            "intervals": robustness.interval.tolist(),
        }
        attacks.append(measured | ({} if attack.bounded else {"median_distance": _median(robustness, attack)}))
    return {"examples": len(drawn.chosen.images), "accuracy": drawn.accuracy, "attacks": attacks}


def in_words(drawn: Attacked) -> list[str]:
    """What was measured, a line for each distance within which there was an attack, and for each that has none."""
    count = len(drawn.chosen.images)
    lines = [f"{count} images, not attacked: " + _share(drawn, drawn.accuracy)]
    for name, robustness in drawn.found.items():
        attack = adversarial.attack(name)
        if not attack.bounded:
            median = _median(robustness, attack)
            said = "fewer than half are fooled" if median is None else f"half are fooled at a distance of {median:.3g}"
            lines.append(f"{attack.title}: {said}, {robustness.fooled[-1].mean():.1%} at all that were found")
            continue
        for epsilon, accuracy, (low, high) in zip(
            robustness.epsilons, robustness.accuracy, robustness.interval, strict=True
        ):
            size = f"{255 * epsilon:.3g}/255" if attack.norm == "linf" else f"L2 {epsilon:.3g}"
            bounds = (1 - high, 1 - low) if drawn.targeted else (low, high)
            between = f"{bounds[0]:.1%} to {bounds[1]:.1%}"
            lines.append(f"{attack.title} within {size}: {_share(drawn, accuracy)} (95%: {between})")
    return lines


def _share(drawn: Attacked, accuracy: float) -> str:
    return f"{1 - accuracy:.1%} taken for the target" if drawn.targeted else f"accuracy {accuracy:.1%}"


def _median(robustness: Robustness, attack: Attack) -> float | None:
    """The median distance of the images that were not fooled before; None if fewer than half are fooled at all."""
    (found,) = robustness.found
    distances = np.where(found.success, np.asarray(getattr(found, attack.norm)), np.inf)[~robustness.before]
    median = float(np.median(distances)) if len(distances) else np.inf
    return median if np.isfinite(median) else None


def _labels(chosen: Chosen) -> Int[np.ndarray, " n"]:
    """The classes that are right; of photographs without labels those that are predicted."""
    subject = chosen.subject
    if not subject.labelled:
        return chosen.targets
    classes, own = len(subject.source.class_names), subject.network.model.num_classes
    if own != classes:
        raise InputError(f"{subject.network.title} has {own} classes; expected {classes}, as the images have")
    return np.asarray(subject.source.read(chosen.indices)[1]).astype(np.int32)


def _examples(chosen: Chosen, attack: Attack, robustness: Robustness) -> Any:
    """Some of the images that were not fooled before, each as it was changed least of what fools, or most of all."""
    candidates = np.flatnonzero(~robustness.before)
    candidates = candidates if len(candidates) else np.arange(len(chosen.images))
    shown = candidates[np.linspace(0, len(candidates) - 1, min(SHOWN, len(candidates))).round().astype(int)]
    success = np.stack([np.asarray(one.success) for one in robustness.found])[:, shown]
    which = np.where(success.any(0), success.argmax(0), len(success) - 1)

    def picked(field: str) -> np.ndarray:
        values = np.stack([np.asarray(getattr(one, field)[shown]) for one in robustness.found])
        return values[which, np.arange(len(shown))]

    images, classes = picked("images"), picked("classes")
    return figures.examples(
        chosen.images[shown],
        images,
        [chosen.classes[i] for i in shown],
        chosen.probabilities[shown],
        [chosen.subject.class_names[k] for k in classes],
        _probabilities(chosen, images, classes),
        picked("success"),
        norm=attack.norm,
    )


def _probabilities(chosen: Chosen, images: np.ndarray, classes: np.ndarray) -> Float[np.ndarray, " n"]:
    network = chosen.subject.network
    question = attribution.ask(network.model, network.state, images, classes, output="probability")
    return np.clip(np.asarray(question.scores(question.images)), 0, 1)


def _curve(attack: Attack, robustness: Robustness, *, targeted: bool) -> figures.Under:
    """The share of images that are classified rightly, or taken for their target, from no change on."""
    whole = robustness._replace(
        epsilons=np.concatenate([[0], robustness.epsilons]),
        fooled=np.concatenate([robustness.before[None], robustness.fooled]),
    )
    shares, bounds = whole.accuracy, whole.interval
    if targeted:
        shares, bounds = 1 - shares, 1 - bounds[:, ::-1]
    return figures.Under(whole.epsilons, shares, bounds, attack.norm, marked=attack.bounded)
