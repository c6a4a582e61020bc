"""What tells the components and template variables of a Python file from its other functions.

`@dg.component_instance` and `@dg.template_var` are public, but nothing public says whether a
function has them. A project is loaded in parts if one of its files is broken, and its other Python
files must then keep their pipelines. Commands find the storage of a project without loading it, and
its address may have a template variable.
"""

from dagster.components.component.component_loader import is_component_loader
from dagster.components.component.template_vars import find_inline_template_vars_in_module

__all__ = ["find_inline_template_vars_in_module", "is_component_loader"]
