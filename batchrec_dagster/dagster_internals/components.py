"""What tells a component that a Python file makes from its other functions.

`@dg.component_instance` is public, but nothing public says whether a function has it. A project is
loaded in parts if one of its files is broken, and its other Python files must then keep their
pipelines.
"""

from dagster.components.component.component_loader import is_component_loader

__all__ = ["is_component_loader"]
