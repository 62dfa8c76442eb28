"""Training and evaluation: `jaxcnn.train.loop.train`, `jaxcnn.train.evaluate.evaluate_run`."""

from jaxcnn.registry import lazy_modules

__getattr__ = lazy_modules(__name__)
