"""What is found about networks and runs, written into folders: figures, arrays and pages."""
