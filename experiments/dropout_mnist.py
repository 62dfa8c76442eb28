"""A perceptron with and without dropout, with few images to learn from and with more.

Question: With how many training images does dropout lower the error?
Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout, 2014, section 7.4 and figure 10 (MNIST, 100
to 50,000 images, all other settings the same).
Command: jaxcnn study dropout_mnist --data.directory ~/tensorflow_datasets
(2,000 updates with 500, 1,000 and 5,000 images; with --scale paper 100,000, and up to 50,000 images)
Time: eleven minutes of one CPU core.
Result: over the seeds 0, 1, 2 with half a 95% t-interval, the validation accuracy rises from 0.866 +- 0.017 to 0.876 +-
0.011 with 500 images, from 0.885 +- 0.017 to 0.904 +- 0.011 with 1,000 and from 0.950 +- 0.007 to 0.953 +- 0.013 with
5,000. Seed by seed, on the same images, the gain is 0.010 +- 0.017, 0.019 +- 0.007 and 0.003 +- 0.005: it holds with
1,000, and is smaller with fewer and with more, as published.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig
from jaxcnn.study import Axis, Study

SHARES = {"without": 0.0, "with dropout": 0.5}
"""The probability with which a hidden unit is dropped."""
BATCH_SIZE = 50


def points(*counts: int) -> dict[str, tuple[str, float]]:
    """Of each arm, the curve and the number of images."""
    return {f"{way}, {count} images": (way, float(count)) for way in SHARES for count in counts}


def arms(counts: tuple[int, ...], updates: int, depth: int, width: int) -> dict[str, Experiment]:
    """The same network and as many updates, whatever the number of images."""
    return {
        arm: Experiment(
            name="dropout_mnist",
            model=ModelConfig("mlp", {"depth": depth, "width": width, "dropout": SHARES[way]}),
            data=DataConfig("mnist", validation=0.05, limit=int(count), batch_size=BATCH_SIZE),
            optimizer=OptimizerConfig("momentum", learning_rate=0.02, schedule="cosine"),
            training=TrainingConfig(
                epochs=updates * BATCH_SIZE // int(count), log_every=updates // 20, checkpoint_every=10_000
            ),
        )
        for arm, (way, count) in points(*counts).items()
    }


QUICK = (500, 1_000, 5_000)
PAPER = (100, 500, 1_000, 5_000, 10_000, 50_000)

STUDY = Study(
    name="dropout_mnist",
    question="With how many training images does dropout lower the error?",
    source="Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, Dropout, 2014, section 7.4 and figure 10.",
    quick=arms(QUICK, updates=2_000, depth=2, width=512),
    paper=arms(PAPER, updates=100_000, depth=3, width=1024),
    caption="Perceptrons with two hidden layers of 512 ReLUs (at paper scale three of 1,024), half of whose units are "
    "dropped or none, on MNIST: as many updates for every number of images, batches of 50, momentum with a cosine from "
    "0.02. The training loss is seen with dropout at work; each seed has other images, the 3,000 for validation too.",
    axis=Axis("training images", points(*PAPER)),
)
