"""Blocks deleted from trained networks on Fashion-MNIST: one by one, and several at random.

Question: What does a trained network lose without one of its blocks, or without several?
Source: Veit, Wilber & Belongie, Residual networks behave like ensembles of relatively shallow networks, 2016, figures 3
and 5 (ResNet-110 and VGG-15 on CIFAR-10), with the networks of depth_fashion_mnist in place of these.
Command: jaxcnn study block_deletion_fashion_mnist --data.directory ~/tensorflow_datasets
(two epochs; with --scale paper ResNet-110 on CIFAR-10, 64,000 iterations)
Time: 12 minutes of one CPU core for the networks, which are three arms of depth_fashion_mnist to the bit, and about two
for the measures.
Result: on 500 test images, means over the seeds 0, 1, 2, plain-20 errs on 80 to 93 % without any one layer. ResNet-56
errs on 11 to 17 % without any one block but the first, and on 39 % (+- 39 %) without that; ResNet-20 on 10 to 19 %, and
on 56 %. Of 300 images, without 1, 2, 4 and 8 random blocks, plain-20 has 86, 88, 88 and 89 % wrong (9 % whole),
ResNet-20 26, 30, 65 and 87 % (8 % whole), and ResNet-56 17, 14, 15 and 47 % (11 % whole). So the finding holds
where blocks are many: ResNet-20, which has nine, loses much with two of them.
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import numpy as np

from jaxcnn import catalog
from jaxcnn.config import ModelConfig
from jaxcnn.study import Measure, Study, Trained

ARMS = ("plain-20", "ResNet-20", "ResNet-56")
DEPTH, _ = catalog.load_study("depth_fashion_mnist")
COUNTS = (1, 2, 4, 8)


def one_by_one(trained: Trained) -> Mapping[float, float]:
    """The error without each block, by its place in per cent of the way through the network.

    What cannot be deleted, as its error would be NaN, is left out.
    """
    from jaxcnn.analysis import lesion
    from jaxcnn.report.beside import Batches
    from jaxcnn.report.subject import open_network, open_subject

    network = open_network(str(trained.directory))
    images = Batches(open_subject(network, data_directory=trained.data_directory), 500)
    found = lesion.single(network.model, network.state, images)
    places = np.linspace(0, 100, len(found.blocks)).round(1)
    return {place: error for place, error in zip(places.tolist(), found.errors.tolist(), strict=True) if error == error}


def at_random(trained: Trained) -> Mapping[float, float]:
    """The mean error without several blocks, over five draws of each number of them; 0 is the whole network."""
    from jaxcnn.analysis import lesion
    from jaxcnn.report.beside import Batches
    from jaxcnn.report.subject import open_network, open_subject

    network = open_network(str(trained.directory))
    images = Batches(open_subject(network, data_directory=trained.data_directory), 300)
    found = lesion.several(network.model, network.state, images, COUNTS, 5, jax.random.key(0))
    errors = found.errors.mean(1)
    return {0.0: found.intact, **{float(count): float(error) for count, error in zip(COUNTS, errors, strict=True)}}


STUDY = Study(
    name="block_deletion_fashion_mnist",
    question="What does a trained network lose without one of its blocks, or without several?",
    source="Veit, Wilber & Belongie, Residual networks behave like ensembles of relatively shallow networks, 2016, "
    "figures 3 and 5, there on CIFAR-10.",
    quick={arm: DEPTH.quick[arm] for arm in ARMS},
    paper={
        "plain-20": DEPTH.paper["plain-20"],
        "ResNet-110": replace(
            DEPTH.paper["ResNet-56"],
            model=ModelConfig("cifar_resnet110"),
            optimizer=replace(DEPTH.paper["ResNet-56"].optimizer, warmup_epochs=1.0),
        ),
    },
    caption="The networks of depth_fashion_mnist, of which blocks (of the plain network, single layers) are deleted "
    "after training: a residual block keeps its shortcut, a layer becomes the identity.",
    measures={
        "one_by_one": Measure(one_by_one, "error without one block", "its place, % of the way through the network"),
        "at_random": Measure(at_random, "error, mean of five draws", "blocks deleted at random"),
    },
)
