"""Erases people from everything that batchrec keeps: what `batchrec forget` does.

A place is a class that counts what it has of the people, and erases it. `plan.py` puts the places
together and erases from one after the other, `unfinished.py` remembers an erasure that has not
ended, and `receipt.py` says in the end what was erased, without ids.

Each place can be erased from again, so that an erasure that was killed is started again from its
beginning and finds less to do.
"""
