"""Preparation of interactions on this machine."""
