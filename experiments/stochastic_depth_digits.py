"""ResNet-110 with and without stochastic depth on the bundled digits.

Question: Does a deep network whose blocks are dropped at random in training err less?
Source: Huang, Sun, Liu, Sedra & Weinberger, Deep networks with stochastic depth, 2016, table 1 (CIFAR-10, 500 epochs:
a test error of 5.23 % where the last block survives with a probability of 0.5, 6.41 % where all do), with 1,438
digits of 8x8 pixels in place of CIFAR-10.
Command: jaxcnn study stochastic_depth_digits
(ten epochs; with --scale paper CIFAR-10 as published)
Time: 265 s of CPU on two cores.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the training loss is 0.371 +- 1.169 with constant and 0.018
+- 0.017 with stochastic depth, and the test accuracy 0.871 +- 0.326 (0.925, 0.967, 0.721) and 0.986 +- 0.007.
Stochastic depth errs less in each seed; constant depth trains so unstably that its interval is too wide to tell the
means apart.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Study

NETWORKS = {
    "constant depth": ModelConfig("cifar_resnet110"),
    "stochastic depth": ModelConfig("stochastic_depth110", {"survival": 0.5}),
}


def quick(network: ModelConfig) -> Experiment:
    """One cycle of ten epochs of 22 batches."""
    return Experiment(
        name="stochastic_depth_digits",
        model=network,
        data=DataConfig("digits", batch_size=64),
        optimizer=OptimizerConfig("nesterov", learning_rate=0.05, weight_decay=1e-4, schedule="one_cycle"),
        training=TrainingConfig(epochs=10, log_every=11),
    )


def paper(network: ModelConfig) -> Experiment:
    """Section 4: 500 epochs of 45,000 images, the rate divided by ten after a half and three quarters of them."""
    return Experiment(
        name="stochastic_depth_digits",
        model=network,
        data=DataConfig("cifar10", batch_size=128, validation=0.1, augment={"crop": 4.0, "flip": 0.5}),
        optimizer=OptimizerConfig("nesterov", learning_rate=0.1, weight_decay=1e-4, schedule="steps"),
        training=TrainingConfig(epochs=500, log_every=351),
    )


STUDY = Study(
    name="stochastic_depth_digits",
    question="Does a deep network whose blocks are dropped at random in training err less?",
    source="Huang, Sun, Liu, Sedra & Weinberger, Deep networks with stochastic depth, 2016, table 1, there on "
    "CIFAR-10.",
    quick={arm: quick(network) for arm, network in NETWORKS.items()},
    paper={arm: paper(network) for arm, network in NETWORKS.items()},
    caption="ResNet-110 trained alike, with all blocks and with blocks that survive with a probability that falls "
    "linearly from 1 to 0.5. The training loss with stochastic depth is that of the networks with dropped blocks.",
)
