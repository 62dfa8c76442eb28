"""ResNet-20 on CIFAR-10, in as many epochs as two CPU cores do in an hour.

Paper: He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2016, section 4.2; trained in one cycle as
Smith & Topin, Super-convergence, 2018, where the paper takes 64,000 iterations (182 epochs here) in steps.
Command: jaxcnn train resnet20_cifar10
Published: test error 8.75 % (table 6), with 182 epochs.
Result: test accuracy 0.8797 on a JPEG copy of the images, on which the published weights, trained on the original
pixels, score 0.8103. It took 81 min on two CPU cores that did other work at the same time, at 478 images/s; alone they
do 670, at which it is an hour.
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

EXPERIMENT = Experiment(
    name="resnet20_cifar10",
    model=ModelConfig("cifar_resnet20"),
    data=DataConfig("cifar10", batch_size=128, augment={"crop": 4.0, "flip": 0.5}),
    optimizer=OptimizerConfig("nesterov", learning_rate=0.2, weight_decay=5e-4, schedule="one_cycle"),
    training=TrainingConfig(epochs=44),
)
