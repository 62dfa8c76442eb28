"""Inception modules with and without the 1x1 convolutions that reduce their channels.

Question: What do the 1x1 reductions of Inception save, and what do they cost in accuracy?
Source: Szegedy et al., Going deeper with convolutions, 2015, section 4 and figure 2 (the naive module, and the one with
dimension reductions), with GoogLeNet at an eighth of its width on Fashion-MNIST.
Command: jaxcnn study inception_fashion_mnist --data.directory ~/tensorflow_datasets
(one epoch of 3,000 images; with --scale paper 90 of ImageNet at full width)
Time: about two minutes of one CPU core.
Result: the reductions take the parameters from 1,453,568 to 95,668 and the multiply-adds from 4,074,996 to 568,352.
Over the seeds 0, 1, 2 with half a 95% t-interval, after 100 updates the training loss is 1.54 +- 0.25 (naive) and
1.87 +- 0.07 (reductions), and the test accuracy 0.622 +- 0.191 and 0.515 +- 0.071: the larger network has learned
more, so far.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.measures import COST
from jaxcnn.study import Study

ARMS = {"naive": "inception_naive", "1x1 reductions": "googlenet_2014"}


def arms(width: float, data: DataConfig, optimizer: OptimizerConfig, training: TrainingConfig) -> dict[str, Experiment]:
    """The same filters in both networks, but for the reductions and the projections after pooling."""
    return {
        arm: Experiment(
            name="inception_fashion_mnist",
            model=ModelConfig(name, {"width": width}),
            data=data,
            optimizer=optimizer,
            training=training,
        )
        for arm, name in ARMS.items()
    }


STUDY = Study(
    name="inception_fashion_mnist",
    question="What do the 1x1 reductions of Inception save, and what do they cost in accuracy?",
    source="Szegedy et al., Going deeper with convolutions, 2015, section 4, there on ImageNet.",
    quick=arms(
        0.125,
        DataConfig("fashion_mnist", image_size=32, limit=3_000, batch_size=30),
        OptimizerConfig("adam", learning_rate=1e-3),
        TrainingConfig(epochs=1, log_every=10),
    ),
    paper=arms(
        1.0,
        DataConfig("imagenet2012", image_size=224, batch_size=256, augment={"resized_crop": 0.08, "flip": 0.5}),
        OptimizerConfig("momentum", learning_rate=0.01, weight_decay=2e-4, schedule="cosine"),
        TrainingConfig(epochs=90),
    ),
    caption="GoogLeNet as published, and with naive modules. At quick scale an eighth of its filters, Fashion-MNIST "
    "enlarged to 32x32 pixels, batches of 30 images, Adam with the rate 0.001; at paper scale all of them, ImageNet, "
    "batches of 256, momentum.",
    measures=COST,
)
