"""Threads, Dask workers, and what else a computation may use."""
