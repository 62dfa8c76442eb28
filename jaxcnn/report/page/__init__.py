"""The report: one HTML page of a run, of several runs compared, or of a study, that needs nothing but itself."""
