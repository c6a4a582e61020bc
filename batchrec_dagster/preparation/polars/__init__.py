"""Preparation on this machine."""
