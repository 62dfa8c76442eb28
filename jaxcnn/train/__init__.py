"""Training and evaluation: `jaxcnn.train.loop.train`, `jaxcnn.train.evaluate.evaluate_run`."""
