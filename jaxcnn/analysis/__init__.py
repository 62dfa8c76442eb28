"""What a network learned: pure functions of a model, its state and images, each in a module of its own."""

from jaxcnn.registry import lazy_modules

__getattr__ = lazy_modules(__name__)
