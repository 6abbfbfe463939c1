"""Files: their names, reading, writing, downloading, provenance, templates."""
