"""What the four figures compute: fits of models to brain RDMs, and what of them is significant."""
