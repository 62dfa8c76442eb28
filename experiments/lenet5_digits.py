"""LeNet-5 on the bundled handwritten digits: the demonstration, which needs no download.

Paper: LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998.
Command: jaxcnn demo (or jaxcnn train lenet5_digits)
Data: 1,797 digits of 8x8 pixels (Alpaydin & Kaynak 1998, in scikit-learn), a stratified fifth held out for testing,
enlarged to 28x28. ReLU and max pooling, seed 0: test accuracy 0.9861 (5 mistakes of 359).
"""

from jaxcnn.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainingConfig

EXPERIMENT = Experiment(
    name="lenet5_digits",
    model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max"}),
    data=DataConfig("digits", image_size=28, batch_size=64),
    optimizer=OptimizerConfig("momentum", learning_rate=0.05, weight_decay=1e-3, schedule="cosine", warmup_epochs=1.0),
    training=TrainingConfig(epochs=20, log_every=11),
)
