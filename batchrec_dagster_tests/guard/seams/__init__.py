"""Functions through which the guard calls batchrec where a whole run would cost too much.

The signatures stay the same when a part of batchrec (a "room") is rewritten; only the code behind
them changes. Apart from this folder, only the guard's builders, servers and faults import internal
modules of batchrec. Tests do not. So a rewritten room changes only its modules in this folder, and
the helpers that run batchrec's own programs.
"""
