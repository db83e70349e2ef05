"""Compared systems: a method is a file that describes it to the catalogue. Torch-free."""
