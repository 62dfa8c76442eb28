"""A residual network of eight layers on Fashion-MNIST: a small net of today's parts.

Paper: He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2016, section 4.2 with n = 1; trained in one
cycle as Smith & Topin, Super-convergence, 2018.
Command: jaxcnn train resnet8_fashion_mnist
Published: none for this depth; the paper's networks are for CIFAR-10 and begin at 20 layers.
Result: test accuracy 0.9301 for seed 0, in 404 s on two CPU cores (2,400 images/s).
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

EXPERIMENT = Experiment(
    name="resnet8_fashion_mnist",
    model=ModelConfig("cifar_resnet8"),
    data=DataConfig("fashion_mnist", batch_size=128, augment={"crop": 2.0, "flip": 0.5}),
    optimizer=OptimizerConfig("nesterov", learning_rate=0.2, weight_decay=5e-4, schedule="one_cycle"),
    training=TrainingConfig(epochs=15),
)
