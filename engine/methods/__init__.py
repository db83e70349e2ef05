"""Compared systems: a method is a list of stages."""

from engine.methods.registry import METHODS, Method

__all__ = ["METHODS", "Method"]
