"""Findings about models and lists: pure functions of facts."""
