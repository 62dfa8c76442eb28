"""LeNet-5 on MNIST, with the published architecture.

Paper: LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998.
Command: jaxcnn train lenet5_mnist
Published: test error 0.95 % (figure 9), with another loss and optimiser.
Result: test accuracy 0.9924 (0.9928, 0.9924, 0.9921 for seeds 0, 1, 2), in 160 s on two CPU cores, measured on a
copy of MNIST with dark digits on white.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

EXPERIMENT = Experiment(
    name="lenet5_mnist",
    model=ModelConfig("lenet5"),
    data=DataConfig("mnist", batch_size=128),
    optimizer=OptimizerConfig("momentum", learning_rate=0.05, weight_decay=1e-4, schedule="cosine", warmup_epochs=0.5),
    training=TrainingConfig(epochs=15),
)
