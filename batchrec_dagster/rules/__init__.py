"""What a shop says of its lists, applied to the results of the model: one module for each rule.

To add a rule, give it a block and a field, and so a YAML key, in `settings.py`, write what it does
in a module here, and give that a place in `prepared.py`.
"""
