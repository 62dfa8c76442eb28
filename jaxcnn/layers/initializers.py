"""Initialisers that several families share, by the names of their papers."""

from __future__ import annotations

import flax.linen as nn

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan-in): He, Zhang, Ren & Sun, "Delving deep into rectifiers", 2015, equation 10."""

he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan-out), which keeps the variance of the gradients: the same paper, equation 14."""

glorot_uniform = nn.initializers.glorot_uniform()
"""U(-a, a) with a^2 = 6 / (fan-in + fan-out): Glorot & Bengio 2010, equation 16."""
