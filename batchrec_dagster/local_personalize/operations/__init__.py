"""The operations: what all kinds of resource share, and a module for each kind's own rules."""
