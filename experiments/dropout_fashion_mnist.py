"""Dropout at four probabilities in a network that has few images to learn from.

Question: Does dropout keep a network from learning its few training images by heart?
Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout, 2014, section 7.3 and figure 9 (MNIST; the
best probabilities to keep a unit are 0.4 to 0.8), with a perceptron on 500 images of Fashion-MNIST.
Command: jaxcnn study dropout_fashion_mnist --data.directory ~/tensorflow_datasets
(40 epochs of 500 images; with --scale paper 100 of all that are not held out, three layers of 1,024)
Time: 129 s of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the training loss after 40 epochs is 0.003, 0.046 +- 0.068,
0.241 +- 0.064 and 1.18 +- 0.05 at p = 0, 0.25, 0.5 and 0.75, and the validation loss 1.02 +- 0.16, 0.99 +- 0.09, 0.857
+- 0.051 and 0.85 +- 0.12. Dropout keeps the images from being learned by heart; that the validation loss falls is no
more than a tendency, and the validation accuracy, 0.790, 0.794, 0.787 and 0.704 +- 0.097, does not rise.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Study

SHARES = (0.0, 0.25, 0.5, 0.75)
POINTS = {f"p = {share:g}": ("dropout", share) for share in SHARES}


def arms(epochs: int, limit: int | None, depth: int, width: int, log_every: int) -> dict[str, Experiment]:
    """The same network and images; p is the probability with which a hidden unit is dropped."""
    return {
        arm: Experiment(
            name="dropout_fashion_mnist",
            model=ModelConfig("mlp", {"depth": depth, "width": width, "dropout": share}),
            data=DataConfig("fashion_mnist", validation=0.05, limit=limit, batch_size=50),
            optimizer=OptimizerConfig("momentum", learning_rate=0.02),
            training=TrainingConfig(epochs=epochs, log_every=log_every, checkpoint_every=10_000),
        )
        for arm, (_, share) in POINTS.items()
    }


STUDY = Study(
    name="dropout_fashion_mnist",
    question="Does dropout keep a network from learning its few training images by heart?",
    source="Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout, 2014, figure 9, there on MNIST.",
    quick=arms(epochs=40, limit=500, depth=2, width=256, log_every=10),
    paper=arms(epochs=100, limit=None, depth=3, width=1024, log_every=100),
    caption="Perceptrons with two hidden layers of 256 ReLUs (at paper scale three of 1,024) on Fashion-MNIST, batches "
    "of 50 images, momentum with the constant rate 0.02. The training loss is seen with dropout at work; the 3,000 "
    "validation images are another choice for each seed.",
    axis=Axis("dropout probability", POINTS),
)
