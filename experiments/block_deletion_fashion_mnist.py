"""Networks to delete blocks from: residual and plain, as deep as one another, and a deeper residual one.

Question: Does a trained network need each of its blocks?
Source: Veit, Wilber & Belongie, Residual networks behave like ensembles of relatively shallow networks, 2016, figures
3 and 5, there with ResNet-110 and VGG on CIFAR-10.
Command: jaxcnn study block_deletion_fashion_mnist --data.directory ~/tensorflow_datasets
(trains the networks), then, with RUNS the folder of its runs,
jaxcnn lesion RUNS/ResNet-56/seed0 --beside RUNS/*/seed* --kind delete
Time: measured below.
Result: measured below.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Study

NETWORKS = {
    "ResNet-20": ModelConfig("cifar_resnet20"),
    "plain-20": ModelConfig("cifar_plain20"),
    "ResNet-56": ModelConfig("cifar_resnet56"),
}


def arms(epochs: int) -> dict[str, Experiment]:
    """Every network trained alike, in one cycle."""
    return {
        arm: Experiment(
            name="block_deletion_fashion_mnist",
            model=model,
            data=DataConfig("fashion_mnist", batch_size=128, augment={"crop": 2.0, "flip": 0.5}),
            optimizer=OptimizerConfig("nesterov", learning_rate=0.1, weight_decay=5e-4, schedule="one_cycle"),
            training=TrainingConfig(epochs=epochs),
        )
        for arm, model in NETWORKS.items()
    }


STUDY = Study(
    name="block_deletion_fashion_mnist",
    question="Does a trained network need each of its blocks?",
    source="Veit, Wilber & Belongie, Residual networks behave like ensembles of relatively shallow networks, 2016.",
    quick=arms(epochs=2),
    paper=arms(epochs=30),
    caption="Residual and plain networks on Fashion-MNIST, batches of 128 images, trained in one cycle.",
)
