"""Faults that tests cause on purpose: errors of servers, lost answers, and kills."""
