"""Tracing: the forward of a torch module as a graph of calls."""
