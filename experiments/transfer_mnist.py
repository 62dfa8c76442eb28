"""A network that knows clothes learns digits from few images: fine-tuned, as fixed features, or from scratch.

Question: With how few images does it pay to start from a network that was trained for something else?
Source: Yosinski, Clune, Bengio & Lipson, How transferable are features in deep neural networks?, 2014 (halves of
ImageNet), with LeNet-5 from Fashion-MNIST to MNIST.
Command: jaxcnn train lenet5_mnist --data.dataset fashion_mnist --training.epochs 3 --run runs/clothes
then: jaxcnn convert runs/clothes runs/clothes.npz
then: jaxcnn study transfer_mnist --data.directory ~/tensorflow_datasets
(20 epochs of 50 images, 10 of 500; with --scale paper ten times as many)
Time: about two minutes of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the validation accuracy of 50 images is 0.634 +- 0.093 from
scratch, 0.348 +- 0.014 as features and 0.590 +- 0.071 fine-tuned; of 500 images 0.888 +- 0.016, 0.696 +- 0.043 and
0.880 +- 0.027. Fine-tuning is not told apart from starting at random, and features of clothes alone are worse for
digits.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Study

WEIGHTS = "runs/clothes.npz"
IMAGES = {50: 20, 500: 10}
"""Epochs for each number of training images."""
WAYS: dict[str, tuple[str | None, dict[str, float]]] = {
    "from scratch": (None, {}),
    "features": (WEIGHTS, {"rest": 0.0, "head": 1.0}),
    "fine-tuned": (WEIGHTS, {}),
}
"""What the network starts from, and the factors of the learning rate."""
POINTS = {f"{way}, {count} images": (way, float(count)) for way in WAYS for count in IMAGES}


def arms(factor: int) -> dict[str, Experiment]:
    """The same images and updates; the last layer starts at random in all."""
    return {
        arm: Experiment(
            name="transfer_mnist",
            model=ModelConfig("lenet5", weights=WAYS[way][0]),
            data=DataConfig("mnist", validation=0.05, limit=int(count), batch_size=25),
            optimizer=OptimizerConfig("momentum", learning_rate=0.02, schedule="cosine", rates=WAYS[way][1]),
            training=TrainingConfig(epochs=factor * IMAGES[int(count)], log_every=10, checkpoint_every=10_000),
        )
        for arm, (way, count) in POINTS.items()
    }


STUDY = Study(
    name="transfer_mnist",
    question="With how few images does it pay to start from a network that was trained for something else?",
    source="Yosinski, Clune, Bengio & Lipson, How transferable are features in deep neural networks?, 2014.",
    quick=arms(factor=1),
    paper=arms(factor=10),
    caption="LeNet-5 (tanh, average pooling), trained on Fashion-MNIST, then on few images of MNIST: batches of 25, "
    "momentum with a cosine from 0.02. As features, only the last layer learns. The images are drawn at random, so "
    "that the classes differ in number; the 3,000 validation images are another choice for each seed.",
    axis=Axis("training images", POINTS),
)
