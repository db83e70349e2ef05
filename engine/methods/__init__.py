"""Compared systems: a method is a list of stages."""

from engine.methods.registry import METHODS, Method
from engine.stages.context import RunContext

__all__ = ["METHODS", "Method", "RunContext"]
