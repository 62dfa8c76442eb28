"""Weights in files: PyTorch's formats, read without PyTorch and without running anything, and our own."""
