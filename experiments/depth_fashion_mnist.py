"""Plain and residual networks of 20 and 56 layers on Fashion-MNIST: what more layers do to the training loss.

Question: Do deeper plain networks train worse, and residual ones not?
Source: He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2016, figures 1 and 6 (CIFAR-10, 64,000
iterations), with Fashion-MNIST at 12x12 pixels in place of CIFAR-10.
Command: jaxcnn study depth_fashion_mnist --data.directory ~/tensorflow_datasets
(two epochs of 937 batches; with --scale paper 64,000 iterations on CIFAR-10 as published)
Time: 21 minutes of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the training loss of the second epoch is 0.328 +- 0.003 with
20 plain layers and 0.753 +- 0.302 with 56; with shortcuts 0.2873 +- 0.0008 and 0.345 +- 0.126. The test accuracies are
0.884, 0.758, 0.894 and 0.877. So 36 layers more cost the plain network 0.425 +- 0.302, in each seed more than 0.33.
They cost the residual network 0.058 +- 0.126, which these seeds do not tell from nothing; but it is behind in all
three, and in the paper, after 64,000 iterations, it is ahead.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Study

NETWORKS = {
    "plain-20": "cifar_plain20",
    "plain-56": "cifar_plain56",
    "ResNet-20": "cifar_resnet20",
    "ResNet-56": "cifar_resnet56",
}


def quick(network: str) -> Experiment:
    """One cycle of two epochs at 12x12 pixels."""
    return Experiment(
        name="depth_fashion_mnist",
        model=ModelConfig(network),
        data=DataConfig("fashion_mnist", image_size=12, batch_size=64),
        optimizer=OptimizerConfig("nesterov", learning_rate=0.05, weight_decay=1e-4, schedule="one_cycle"),
        training=TrainingConfig(epochs=2, log_every=47),
    )


def paper(network: str) -> Experiment:
    """Section 4.2: 164 epochs are 64,000 iterations, and the rate is divided by ten after 32,000 and 48,000."""
    return Experiment(
        name="depth_fashion_mnist",
        model=ModelConfig(network),
        data=DataConfig("cifar10", batch_size=128, augment={"crop": 4.0, "flip": 0.5}),
        optimizer=OptimizerConfig("momentum", learning_rate=0.1, weight_decay=1e-4, schedule="steps"),
        training=TrainingConfig(epochs=164, log_every=195),
    )


STUDY = Study(
    name="depth_fashion_mnist",
    question="Do deeper plain networks train worse, and residual ones not?",
    source="He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2016, figures 1 and 6, there on "
    "CIFAR-10.",
    quick={arm: quick(network) for arm, network in NETWORKS.items()},
    paper={arm: paper(network) for arm, network in NETWORKS.items()},
    caption="Networks of He et al. with and without shortcuts, all trained alike.",
)
