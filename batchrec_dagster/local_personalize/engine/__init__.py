"""Recommenders that are trained on interactions: numbers and files, nothing of Personalize's API.

`blend.train` and `serve.recommend` are the two ends, to be read top down:

    train: hold out users -> fit components -> select a blend -> measure it -> fit it on all users
    infer: histories -> scores of all items -> the filter's mask -> the best items

A recipe is a module with `train`, and a row in `trained_recipes.py`: blend (items for users),
similar (items for an item), segments (users for items). The parts of a blend_model are pairs
(co-occurrence), factors (implicit's ALS) and content (attributes of items); select weighs them,
evaluate measures them, store writes them, serve answers with them. `data` holds interactions and
histories.
"""
