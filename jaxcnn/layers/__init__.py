"""What the networks are made of: convolution, batch normalisation, activations, and their common base."""
