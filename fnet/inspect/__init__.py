"""Tools that show what is in a model and what went wrong in it."""

from fnet.inspect.layers import Summary, summary

__all__ = ["Summary", "summary"]
