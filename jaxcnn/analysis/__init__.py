"""What a network learned: pure functions of a model, its state and images, each in a module of its own."""
