"""Batch norm on and off at three learning rates, and the ReLUs that die.

Question: Which learning rates does a network bear with batch norm, and which without?
Source: Ioffe & Szegedy, Batch normalization, 2015, section 4.2 (Inception at 1, 5 and 30 times its learning rate; at 5
times it does not learn without batch norm), with LeNet-5 on Fashion-MNIST.
Command: jaxcnn study batch_norm_fashion_mnist --data.directory ~/tensorflow_datasets
(one epoch of 6,000 images; with --scale paper 30 of all 60,000)
Time: 113 s of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, batch norm has a test accuracy of 0.758 +- 0.004, 0.809 +-
0.034 and 0.757 +- 0.015 at the rates 0.02, 0.2 and 2 after 100 updates. Without it the accuracy is lower at the first
two, 0.679 +- 0.030 and 0.743 +- 0.019, and at 2 one seed diverges and two stay at chance, with 94 % of their ReLUs
dead; with batch norm 0.4 % are. All of it holds over three seeds,
but for the 94 %, which is of the two that did not diverge.
"""

from collections.abc import Mapping

import numpy as np

import jaxcnn
from jaxcnn.analysis.dead_units import dead_units
from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Measure, Study, Trained
from jaxcnn.train.evaluate import open_run_split

RATES = (0.02, 0.2, 2.0)
NORMS = {"with batch norm": True, "without": False}
POINTS = {f"{title}, {rate:g}": (title, rate) for title in NORMS for rate in RATES}


def arms(epochs: int, limit: int | None, log_every: int) -> dict[str, Experiment]:
    """Plain gradients of batches at constant rates, so that nothing but batch norm tames them."""
    return {
        arm: Experiment(
            name="batch_norm_fashion_mnist",
            model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max", "batch_norm": NORMS[title]}),
            data=DataConfig("fashion_mnist", limit=limit, batch_size=60),
            optimizer=OptimizerConfig("sgd", learning_rate=rate),
            training=TrainingConfig(epochs=epochs, log_every=log_every),
        )
        for arm, (title, rate) in POINTS.items()
    }


def dead(run: Trained) -> Mapping[str, float]:
    """The share of units after a ReLU that are zero for each of the first 1,000 test images."""
    model, state = jaxcnn.load(run.directory)
    source, _ = open_run_split(run.directory, "test", run.data_directory)
    images = source.read(np.arange(min(1000, len(source))))[0].astype(np.float32) / 255
    return {"all": float(np.concatenate(dead_units(model, state, images).dead).mean())}


STUDY = Study(
    name="batch_norm_fashion_mnist",
    question="Which learning rates does a network bear with batch norm, and which without?",
    source="Ioffe & Szegedy, Batch normalization, 2015, section 4.2, there with Inception on ImageNet.",
    quick=arms(epochs=1, limit=6_000, log_every=10),
    paper=arms(epochs=30, limit=None, log_every=100),
    caption="LeNet-5 (ReLU, max pooling) on Fashion-MNIST, batches of 60 images, plain gradients, constant rates. A "
    "unit is dead if it is zero for each of the first 1,000 test images.",
    axis=Axis("learning rate", POINTS),
    measures={"dead": Measure(dead, "share of dead ReLU units", "")},
)
