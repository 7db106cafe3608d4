"""Outputs: whole objects, built completely and then created once."""
