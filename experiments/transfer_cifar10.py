"""A network that knows photographs learns small pictures from few examples: fine-tuned, as features, or from scratch.

Question: With how few images does it pay to start from a network that was trained for something else?
Source: Donahue et al., DeCAF: a deep convolutional activation feature for generic visual recognition, 2014, and
Yosinski, Clune, Bengio & Lipson, How transferable are features in deep neural networks?, 2014; here SqueezeNet 1.0
from ImageNet to CIFAR-10.
Command: jaxcnn study transfer_cifar10 --data.directory ~/tensorflow_datasets
with PyTorch's published weights of SqueezeNet 1.0 as squeezenet1_0.pth in the folder where it is called
(images enlarged to 64x64 pixels, 16 epochs of 100, 8 of 500; with --scale paper to 224x224, and ten times as many)
Time: seven minutes of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the validation accuracy with 100 images is 0.170 +- 0.050
from scratch, 0.309 +- 0.135 as features and 0.327 +- 0.070 fine-tuned; with 500 images 0.237 +- 0.026, 0.394 +- 0.025
and 0.519 +- 0.069. Seed by seed, fine-tuning gains 0.157 +- 0.075 and 0.281 +- 0.057 over starting at random, and
with 500 images 0.125 +- 0.069 over features: both of the sources' findings hold.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Study

WEIGHTS = "squeezenet1_0.pth"
IMAGES = {100: 16, 500: 8}
"""Epochs for each number of training images."""
WAYS: dict[str, tuple[str | None, dict[str, float]]] = {
    "from scratch": (None, {"rest": 0.1, "head": 0.1}),
    "features": (WEIGHTS, {"rest": 0.0, "head": 0.3}),
    "fine-tuned": (WEIGHTS, {"rest": 0.1, "head": 1.0}),
}
"""What the network starts from, and the factors of the learning rate, of some tried the best of each.

SqueezeNet's logits are rectified: higher rates let classes die, and from scratch all of them.
"""
POINTS = {f"{way}, {count} images": (way, float(count)) for way in WAYS for count in IMAGES}


def arms(image_size: int, factor: int) -> dict[str, Experiment]:
    """The same images and updates; the last layer starts at random in all."""
    return {
        arm: Experiment(
            name="transfer_cifar10",
            model=ModelConfig("squeezenet1_0", weights=WAYS[way][0]),
            data=DataConfig("cifar10", image_size=image_size, validation=0.01, limit=int(count), batch_size=10),
            optimizer=OptimizerConfig("adam", learning_rate=1e-3, schedule="cosine", rates=WAYS[way][1]),
            training=TrainingConfig(epochs=factor * IMAGES[int(count)], log_every=10, checkpoint_every=10_000),
        )
        for arm, (way, count) in POINTS.items()
    }


STUDY = Study(
    name="transfer_cifar10",
    question="With how few images does it pay to start from a network that was trained for something else?",
    source="Donahue et al., DeCAF, 2014; Yosinski, Clune, Bengio & Lipson, How transferable are features in deep "
    "neural networks?, 2014.",
    quick=arms(image_size=64, factor=1),
    paper=arms(image_size=224, factor=10),
    caption="SqueezeNet 1.0, from ImageNet to few images of CIFAR-10 of 64x64 pixels: batches of 10, Adam with a "
    "cosine from 0.001. As features, only the last layer learns, at 0.3 of the rate; fine-tuned, it learns at the rate "
    "and the others, as from scratch, at a tenth of it. The 500 validation images are another choice for each seed.",
    axis=Axis("training images", POINTS),
)
