"""Masks, the price of border behaviour, and what masking changes."""
