"""Layers that torch does not have."""
