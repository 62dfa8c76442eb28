"""The sections of a run's page, one file and one template each; see `jaxcnn.report.page.section`."""
