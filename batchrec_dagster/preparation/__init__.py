"""Preparation of interactions and users from ratings files in any supported place."""
