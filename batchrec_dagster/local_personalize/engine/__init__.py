"""Recommenders that are trained on interactions, independent of Personalize's API.

Begin reading with `blend.train` and `serve.recommend`:

    train: hold out users -> fit components -> select a blend -> measure it -> fit it on all users
    infer: histories -> scores of all items -> the filter's mask -> the best items

A recipe is a module with a training function, and a row in `trained_recipes.py`:

    blend: items for users
    similar: items for an item
    segments: users for items

The components of a blend are pairs (co-occurrence), factors (implicit's ALS), popularity and
content (attributes of items). `select` chooses the weights of the components, `evaluate` measures
models, `store` writes and reads model files, and `serve` makes lists. `data` holds interactions
and histories.
"""
