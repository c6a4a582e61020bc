"""The lists: audience, batch job, rules, rows, checks, publication and rollback."""
