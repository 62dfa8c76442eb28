"""A residual network of eight layers on MNIST: a small net of today's parts.

Paper: He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2016, section 4.2 with n = 1; trained in one
cycle as Smith & Topin, Super-convergence, 2018.
Command: jaxcnn train resnet8_mnist
Published: none for this depth; the paper's networks are for CIFAR-10 and begin at 20 layers.
Result: test accuracy 0.9945 (0.9942, 0.9952, 0.9940 for seeds 0, 1, 2), in 166, 170 and 182 s on two CPU cores,
measured on a copy of MNIST with dark digits on white.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

EXPERIMENT = Experiment(
    name="resnet8_mnist",
    model=ModelConfig("cifar_resnet8"),
    data=DataConfig("mnist", batch_size=128, augment={"crop": 2.0}),
    optimizer=OptimizerConfig("nesterov", learning_rate=0.2, weight_decay=5e-4, schedule="one_cycle"),
    training=TrainingConfig(epochs=6),
)
