"""The mathematics of convolutional networks by hand: every forward pass with the backward pass derived from it."""
