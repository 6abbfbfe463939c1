"""The report, the methods text and the notes of figures, as templates and data."""
