"""Kernels of 5x5 in LeNet-5, and what sees the same pixels with fewer weights: 3x3 twice, 1x5 and 5x1.

Question: What do factorised kernels cost and save, in weights, multiply-adds and accuracy?
Source: Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception architecture, 2016, section 3 (5x5 as 3x3
twice saves 28 %, nxn as 1xn and nx1 more, which Inception v3 does with 7x7), with LeNet-5 on Fashion-MNIST.
Command: jaxcnn study factorized_kernels_fashion_mnist --data.directory ~/tensorflow_datasets
(two epochs of 6,000 images; with --scale paper 30 of all 60,000)
Time: 79 s of one CPU core.
Result: 3x3 twice needs 32,100 parameters and 299,592 multiply-adds and 1x5 with 5x1 22,868 and 217,720, where 5x5 needs
61,706 and 416,520. Over the seeds 0, 1, 2 with half a 95% t-interval the training loss of the second epoch is 0.645 +-
0.048, 0.649 +- 0.044 and 0.559 +- 0.018: the networks with fewer weights and two layers more learn more slowly. The
test accuracy is 0.757 +- 0.029, 0.755 +- 0.038 and 0.780 +- 0.094, which three seeds do not tell apart.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.measures import COST
from jaxcnn.study import Study

ARMS = {"5x5": "5x5", "3x3, 3x3": "3x3", "1x5, 5x1": "1x5"}


def arms(epochs: int, limit: int | None, log_every: int) -> dict[str, Experiment]:
    """C3 and C5 in three forms; the maps after them are equally large."""
    return {
        arm: Experiment(
            name="factorized_kernels_fashion_mnist",
            model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max", "kernels": kernels}),
            data=DataConfig("fashion_mnist", limit=limit, batch_size=60),
            optimizer=OptimizerConfig("momentum", learning_rate=0.02),
            training=TrainingConfig(epochs=epochs, log_every=log_every),
        )
        for arm, kernels in ARMS.items()
    }


STUDY = Study(
    name="factorized_kernels_fashion_mnist",
    question="What do factorised kernels cost and save, in weights, multiply-adds and accuracy?",
    source="Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, Rethinking the Inception architecture, 2016, section 3.",
    quick=arms(epochs=2, limit=6_000, log_every=10),
    paper=arms(epochs=30, limit=None, log_every=100),
    caption="LeNet-5 (ReLU, max pooling) on Fashion-MNIST, batches of 60 images, momentum with the constant rate "
    "0.02. The kernels are those of C3 and C5; the first of two has as many filters as channels.",
    measures=COST,
)
