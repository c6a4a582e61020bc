"""The calls by which the guard enters batchrec where a whole run would cost too much.

Each function has the signature that the rooms are to have when they are written anew, over the code
as it is. Tests of the guard import batchrec's internal modules nowhere else: when a room is written
anew, its modules here alone change, with the servers that run batchrec's own programs.
"""
