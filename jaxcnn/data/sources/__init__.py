"""One file per kind of dataset; each registers its datasets in a module-level `DATASETS`."""
