"""Pages and galleries of a run."""
