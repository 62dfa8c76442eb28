"""Figures for papers and lectures: functions that take arrays and return a matplotlib figure."""

from jaxcnn.registry import lazy_modules

__getattr__ = lazy_modules(__name__)
