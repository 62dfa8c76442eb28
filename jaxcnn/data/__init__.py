"""Datasets: splits with random access (`open_split`), and the batches they are fed in (`jaxcnn.data.pipeline`)."""

from jaxcnn.data.spec import ArraySource, Source, Subset, names, open_split

__all__ = ["ArraySource", "Source", "Subset", "names", "open_split"]
