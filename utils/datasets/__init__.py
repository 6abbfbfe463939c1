"""Data sets: where their parts lie, how they are read and checked; the simulated example, the published release."""
