"""The mean of the probabilities of one, two and three networks that differ in their seed.

Question: How much better do several networks classify together than each of them by itself?
Source: Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural networks, 2012, table 2
(top-5 error 18.2 % of one network, 16.4 % of five), with LeNet-5 on Fashion-MNIST.
Command: jaxcnn study ensembles_fashion_mnist --data.directory ~/tensorflow_datasets
(two epochs of 6,000 images; with --scale paper 30 of all 60,000)
Time: 79 s of one CPU core.
Result: over three groups of three seeds, 0 to 8, with half a 95% t-interval, the test accuracy is 0.793 +- 0.033 of one
network, 0.818 +- 0.024 of two together and 0.831 +- 0.009 of three. Within the groups two gain 0.024 +- 0.022 and three
0.038 +- 0.025, so that both gains hold.
"""

from collections.abc import Mapping

import numpy as np

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Measure, Study, Trained
from jaxcnn.train.evaluate import predict_run, score
from jaxcnn.train.views import LogMean


def arms(epochs: int, limit: int | None, log_every: int) -> dict[str, Experiment]:
    """One network; every seed draws its own images and parameters."""
    return {
        "LeNet-5": Experiment(
            name="ensembles_fashion_mnist",
            model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max"}),
            data=DataConfig("fashion_mnist", limit=limit, batch_size=60),
            optimizer=OptimizerConfig("momentum", learning_rate=0.03),
            training=TrainingConfig(epochs=epochs, log_every=log_every),
        )
    }


def together(*runs: Trained) -> Mapping[float, float]:
    """Test accuracy of the members one by one, the mean, and of the mean probabilities of the first two and three."""
    predictions = [predict_run(run.directory, data_directory=run.data_directory) for run in runs]
    labels = predictions[0][2]
    mean, found = LogMean(len(labels)), {1.0: float(np.mean([scores.top1 for scores, _, _ in predictions]))}
    for count, (_, logits, _) in enumerate(predictions, start=1):
        mean.add(range(len(labels)), logits)
        if count > 1:
            found[float(count)] = score(mean.result(), labels).top1
    return found


STUDY = Study(
    name="ensembles_fashion_mnist",
    question="How much better do several networks classify together than each of them by itself?",
    source="Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural networks, 2012.",
    quick=arms(epochs=2, limit=6_000, log_every=10),
    paper=arms(epochs=30, limit=None, log_every=100),
    caption="LeNet-5 (ReLU, max pooling) on Fashion-MNIST, batches of 60 images, momentum with the constant rate 0.03. "
    "An ensemble averages the probabilities of its members, which saw different images from other parameters.",
    seeds=tuple(range(9)),
    measures={"ensembles": Measure(together, "test accuracy", "members", members=3)},
)
