"""Gradient descent, SGD, momentum, Adagrad and Adam on Fashion-MNIST, at equal work.

Question: How fast do full-batch gradient descent and four rules of mini-batches lower the loss of LeNet-5?
Source: Kingma & Ba, Adam: a method for stochastic optimization, 2015, section 6.3 and figure 3 (training cost in the
first three epochs, and over 45, on CIFAR-10), with Fashion-MNIST in place of CIFAR-10 and LeNet-5 as the network.
Command: jaxcnn study optimizers_fashion_mnist --data.directory ~/tensorflow_datasets
(three epochs; with --scale paper 45)
Learning rates: of three for each rule the one with the lowest loss on a tenth of the training images, held out, after
three epochs from seed 0; the test images had no part in it. Seed 0 is among the study's own, and the paper scale keeps
these rates, chosen at three epochs, for its 45: there other rates may be better, and another order of the rules.
  GD         0.1: 2.204    0.3: 1.943    1: 3.688
  SGD        0.03: 0.407   0.1: 0.312    0.3: 0.336
  momentum   0.01: 0.309   0.03: 0.301   0.1: 0.360
  Adagrad    0.01: 0.312   0.03: 0.274   0.1: 0.437
  Adam       3e-4: 0.369   1e-3: 0.307   3e-3: 0.312
Time: nine minutes of one CPU core.
Result: after three epochs, over the seeds 0, 1, 2 with half a 95% t-interval, the training loss is 2.07 +- 0.22 (GD),
0.324 +- 0.025 (SGD), 0.294 +- 0.019 (momentum), 0.285 +- 0.070 (Adagrad) and 0.312 +- 0.019 (Adam), and the test
accuracy 0.413, 0.876, 0.882, 0.887 and 0.879. GD, with three updates where the others make 1,500, has hardly begun;
seed by seed, momentum has a lower training loss than Adam (0.018 +- 0.010) and Adam than SGD (0.012 +- 0.010), and
no test accuracy of the four rules of mini-batches is told from another.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, OptimizerName, TrainingConfig
from jaxcnn.study import Study

RATES: dict[str, tuple[OptimizerName, float]] = {
    "GD": ("gd", 0.3),
    "SGD": ("sgd", 0.1),
    "momentum": ("momentum", 0.03),
    "Adagrad": ("adagrad", 0.03),
    "Adam": ("adam", 1e-3),
}


def arms(epochs: int, log_every: int) -> dict[str, Experiment]:
    """Every rule on the same batches of 120 images, 500 in an epoch; GD needs them to be all of the 60,000."""
    return {
        arm: Experiment(
            name="optimizers_fashion_mnist",
            model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max"}),
            data=DataConfig("fashion_mnist", batch_size=120),
            optimizer=OptimizerConfig(rule, learning_rate=rate),
            training=TrainingConfig(epochs=epochs, log_every=log_every),
        )
        for arm, (rule, rate) in RATES.items()
    }


STUDY = Study(
    name="optimizers_fashion_mnist",
    question="How fast do full-batch gradient descent and four rules of mini-batches lower the loss of LeNet-5?",
    source="Kingma & Ba, Adam: a method for stochastic optimization, 2015, figure 3, there on CIFAR-10.",
    quick=arms(epochs=3, log_every=25),
    paper=arms(epochs=45, log_every=100),
    caption="LeNet-5 (ReLU, max pooling) on Fashion-MNIST, batches of 120 images, constant learning rates: "
    + ", ".join(f"{arm} {rate:g}" for arm, (_, rate) in RATES.items())
    + " (chosen after three epochs of seed 0, on held-out images). An epoch is 500 updates, but in GD one, of the mean "
    "gradient of all its batches: equal epochs are equal work.",
)
