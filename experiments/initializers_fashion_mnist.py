"""Six distributions that kernels start from, in a convolutional network on Fashion-MNIST.

Question: How much does the distribution that the kernels start from decide of how fast LeNet-5 learns?
Source: He, Zhang, Ren & Sun, Delving deep into rectifiers, 2015, section 2.2 and figures 2 and 3 (ImageNet, 22 and 30
layers), Glorot & Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, figure 12,
with LeNet-5 on Fashion-MNIST in their place.
Command: jaxcnn study initializers_fashion_mnist --data.directory ~/tensorflow_datasets
(two epochs of 6,000 images; with --scale paper 30 of all 60,000)
Time: 101 s of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, N(0, 0.01) has learned nothing after 200 updates (training
loss 2.303, chance) and U(-0.05, 0.05) hardly anything in two seeds of three (test accuracy 0.25, 0.17 and 0.68).
Glorot's and He's distributions come to 0.773 +- 0.047 (normal) and 0.783 +- 0.024 (uniform), and to 0.801 +- 0.036 and
0.800 +- 0.033. He's lower the loss sooner, 0.53 against 0.58 over the second epoch; at the end He's normal
form is above Glorot's (0.028 +- 0.013 seed by seed), and three seeds tell no other two of the four apart.
"""

from jaxcnn.config import DataConfig, Experiment, InitializerName, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Study

ARMS: dict[str, InitializerName] = {
    "N(0, 0.01)": "normal",
    "U(-0.05, 0.05)": "uniform",
    "Glorot normal": "glorot_normal",
    "Glorot uniform": "glorot_uniform",
    "He normal": "he_normal",
    "He uniform": "he_uniform",
}


def arms(epochs: int, limit: int | None, log_every: int) -> dict[str, Experiment]:
    """The same network, images and rule; momentum 0.9 at a constant rate."""
    return {
        arm: Experiment(
            name="initializers_fashion_mnist",
            model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max"}, initializer=initializer),
            data=DataConfig("fashion_mnist", limit=limit, batch_size=60),
            optimizer=OptimizerConfig("momentum", learning_rate=0.02),
            training=TrainingConfig(epochs=epochs, log_every=log_every),
        )
        for arm, initializer in ARMS.items()
    }


STUDY = Study(
    name="initializers_fashion_mnist",
    question="How much does the distribution that the kernels start from decide of how fast LeNet-5 learns?",
    source="He, Zhang, Ren & Sun, Delving deep into rectifiers, 2015, figures 2 and 3, there on ImageNet.",
    quick=arms(epochs=2, limit=6_000, log_every=10),
    paper=arms(epochs=30, limit=None, log_every=100),
    caption="LeNet-5 (ReLU, max pooling) on Fashion-MNIST, batches of 60 images, momentum with the constant rate "
    "0.02; biases start at 0.",
)
