"""Attacks against foolbox and captum on the same network, in double precision.

DeepFool, the iterated sign and Carlini and Wagner's attack are compared image by image: foolbox's have the same steps,
the last with `abort_early=False`, for its early stop depends on the images beside. captum's projected gradient descent
follows the sign in the Euclidean norm too, so that it is compared in the maximum norm alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
import warnings
from functools import partial

import jax
import numpy as np
import pytest
from small_networks import SHAPE, Small, images_of, state_of

from jaxcnn.analysis.attacks import bim, fgsm, pgd
from jaxcnn.analysis.carlini_wagner import carlini_wagner
from jaxcnn.analysis.deep_fool import deep_fool

pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor .* did not already require gradients:UserWarning")

COUNT = 6
IMAGES = np.asarray(images_of(COUNT), np.float64)
STATE = state_of(Small())


@pytest.fixture(scope="module")
def foolbox(torch):
    """foolbox as an oracle of attacks, without the GitPython with which it would fetch networks."""
    if not os.environ.get("CI") and importlib.util.find_spec("foolbox") is None:
        pytest.skip("foolbox is the oracle here: pip install --no-deps foolbox eagerpy")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from where SciPy no longer keeps things
        patch.setitem(sys.modules, "git", types.SimpleNamespace(Repo=None))
        return importlib.import_module("foolbox")


@pytest.fixture(scope="module")
def net(torch):
    """The network of STATE in PyTorch, for images [N, C, H, W]."""
    conv, head = (
        {name: torch.tensor(np.asarray(value, np.float64)) for name, value in STATE.params[layer].items()}
        for layer in ("conv", "head")
    )

    class Twin(torch.nn.Module):
        def forward(self, x):
            kernel = conv["kernel"].permute(3, 2, 0, 1)
            x = torch.conv2d((x - 0.4) / 0.2, kernel, conv["bias"], stride=2, padding=1).relu()
            return x.permute(0, 2, 3, 1).flatten(1) @ head["kernel"] + head["bias"]

    return Twin().eval()


@pytest.fixture(scope="module")
def images(torch):
    return torch.tensor(IMAGES).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def labels(net, images):
    """Of which the network has all right but the first."""
    said = net(images).argsort(-1).numpy()
    return np.concatenate([said[:1, 0], said[1:, -1]])


TARGETS = np.array([0, 1, 2, 3, 0, 1])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def ours(attack, labels, **options):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), STATE.params)
    found = attack(Small(), STATE.replace(params=params), IMAGES, labels, **options)
    assert found.images.dtype == np.float64
    return found


def equal(found, theirs, tolerance=1e-5):
    np.testing.assert_allclose(found.images, theirs.permute(0, 2, 3, 1).numpy(), atol=tolerance)
    assert np.abs(found.images - IMAGES).max() > 100 * tolerance


@pytest.fixture(params=[False, True], ids=["untargeted", "targeted"])
def targets(request):
    return TARGETS if request.param else None


@pytest.fixture
def criterion(foolbox, torch, labels, targets):
    if targets is None:
        return foolbox.criteria.Misclassification(torch.tensor(labels))
    return foolbox.criteria.TargetedMisclassification(torch.tensor(targets))


BOUNDED = {
    "fgsm": (partial(fgsm, epsilon=0.03), "LinfProjectedGradientDescentAttack", {"steps": 1, "rel_stepsize": 1.0}),
    "bim": (partial(bim, epsilon=0.03, step_size=0.006), "LinfBasicIterativeAttack", {"steps": 10}),
    "pgd": (
        partial(pgd, epsilon=0.03, steps=7, random_start=False),
        "LinfProjectedGradientDescentAttack",
        {"steps": 7, "rel_stepsize": 2.5 / 7},
    ),
    "pgd_l2": (
        partial(pgd, epsilon=0.5, norm="l2", steps=7, random_start=False),
        "L2ProjectedGradientDescentAttack",
        {"steps": 7, "rel_stepsize": 2.5 / 7},
    ),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_within_a_distance_as_foolbox(foolbox, net, images, labels, targets, criterion, name):
    attack, theirs, options = BOUNDED[name]
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    found = ours(attack, labels, targets=targets)
    made = getattr(foolbox.attacks, theirs)(**options, random_start=False).run(
        model, images, criterion, epsilon=attack.keywords["epsilon"]
    )
    equal(found, made)
    np.testing.assert_array_equal(found.success, criterion(made, net(made)).numpy())


@pytest.mark.parametrize("candidates", [2, 4])
def test_deep_fool_as_foolbox(foolbox, torch, net, images, labels, candidates):
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    attack = foolbox.attacks.L2DeepFoolAttack(steps=20, candidates=candidates)
    equal(ours(deep_fool, labels, steps=20, candidates=candidates), attack.run(model, images, torch.tensor(labels)))


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_carlini_and_wagner_as_foolbox(foolbox, net, images, labels, targets, criterion, confidence):
    model = foolbox.PyTorchModel(net, bounds=(0, 1))
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=4, steps=25, stepsize=0.03, confidence=confidence, initial_const=0.125, abort_early=False
    )
    found = ours(
        carlini_wagner,
        labels,
        targets=targets,
        searches=4,
        steps=25,
        learning_rate=0.03,
        confidence=confidence,
        constant=0.125,
    )
    assert found.success.all()
    equal(found, attack.run(model, images, criterion))


@pytest.mark.parametrize("steps", [1, 7])
def test_the_sign_as_captum(captum, torch, net, images, labels, targets, steps):
    robust = importlib.import_module("captum.robust")
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    asked = {"target": torch.tensor(labels if targets is None else targets), "targeted": targets is not None}
    if steps == 1:
        theirs = robust.FGSM(net, loss, lower_bound=0, upper_bound=1).perturb(images, 0.03, **asked)
        found = ours(fgsm, labels, targets=targets, epsilon=0.03)
    else:
        theirs = robust.PGD(net, loss, lower_bound=0, upper_bound=1).perturb(images, 0.03, 0.01, steps, **asked)
        found = ours(bim, labels, targets=targets, epsilon=0.03, steps=steps, step_size=0.01)
    equal(found, theirs.detach())
    assert found.images.shape == (COUNT, *SHAPE)
