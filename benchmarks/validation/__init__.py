"""Simulations in which the truth is known: how often each claim of the figures is made, rightly and wrongly."""
