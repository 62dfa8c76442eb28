"""A network that knows photographs learns small pictures from few examples: fine-tuned, as features, or from scratch.

Question: With how few images does it pay to start from a network that was trained for something else?
Source: Donahue et al., DeCAF: a deep convolutional activation feature for generic visual recognition, 2014, and
Yosinski, Clune, Bengio & Lipson, How transferable are features in deep neural networks?, 2014; here SqueezeNet 1.0
from ImageNet to CIFAR-10.
Command: jaxcnn study transfer_cifar10 --data.directory ~/tensorflow_datasets
with PyTorch's published weights of SqueezeNet 1.0 as squeezenet1_0.pth in the folder where it is called
(images enlarged to 64x64 pixels, 16 epochs of 100, 8 of 500; with --scale paper to 224x224, and ten times as many)
Learning rates: of three or four factors of 0.001 for each start the one with the highest mean accuracy on the held-out
images of the seeds 10 and 11, which are not the study's, after 8 epochs of 500 images.
  from scratch  0.03: 0.176   0.1: 0.262   0.3: 0.215
  features      0.1: 0.291    0.3: 0.388   1: 0.436     3: 0.066
  fine-tuned    0.1: 0.328    0.3: 0.486   1: 0.490     3: 0.015   (of the last layer, a tenth of it for the others)
Time: seven minutes of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the validation accuracy with 100 images is 0.170 +- 0.050
from scratch, 0.310 +- 0.177 as features and 0.327 +- 0.070 fine-tuned; with 500 images 0.237 +- 0.025, 0.389 +- 0.214
and 0.519 +- 0.069. Seed by seed, fine-tuning gains 0.157 +- 0.075 and 0.281 +- 0.057 over starting at random, which
holds. With 500 images it is above features in each seed (0.130 +- 0.146) and these above random starts (0.151 +-
0.201), which three seeds do not tell from nothing.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Study

WEIGHTS = "squeezenet1_0.pth"
IMAGES = {100: 16, 500: 8}
"""Epochs for each number of training images."""
WAYS: dict[str, tuple[str | None, dict[str, float]]] = {
    "from scratch": (None, {"rest": 0.1, "head": 0.1}),
    "features": (WEIGHTS, {"rest": 0.0, "head": 1.0}),
    "fine-tuned": (WEIGHTS, {"rest": 0.1, "head": 1.0}),
}
"""What the network starts from, and the factors of the learning rate.

SqueezeNet's logits are rectified: higher rates let classes die.
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
    caption="SqueezeNet 1.0, from ImageNet to few images of CIFAR-10, of 64x64 pixels (paper scale: 224x224): batches "
    "of 10, Adam with a cosine from 0.001. As features, only the last layer learns; fine-tuned, the others learn at a "
    "tenth of the rate, as all do from scratch. The 500 validation images are another choice for each seed.",
    axis=Axis("training images", POINTS),
)
