"""Functions through which the guard calls batchrec where a whole run would cost too much.

The signatures stay the same when a part of batchrec (a "room") is rewritten; only the code behind
them changes. The guard imports batchrec's internal modules in no other place. So a rewritten room
changes only its modules in this folder, and the servers that run batchrec's own programs.
"""
