"""Demo data: a synthetic set shaped like HetRec 2011, and where the real MovieLens sets are.

What a pipeline may name as its source is in `preparation.sources`; here is only what stands
behind `sample://` and `movielens://`.
"""
