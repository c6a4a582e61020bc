"""The resources of the CloudFormation template, with conditions and references resolved."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from batchrec_dagster_tests.guard.builders import NEW_PROJECT

FILE = NEW_PROJECT / "deploy" / "aws.yaml"
ACCOUNT = "123456789012"
REGION = "eu-west-1"
BUCKET = "the-bucket"

Statement = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads `!Name value` as `{"!Name": value}`."""


def _construct_function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    match node:
        case yaml.SequenceNode():
            value: Any = loader.construct_sequence(node, deep=True)
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
        case _:
            raise AssertionError(f"!{name} of a mapping")
    return {f"!{name}": value}


_Loader.add_multi_constructor("!", _construct_function)


def resolve_stack(partition: str = "aws", **parameters: str) -> dict[str, Any]:
    """Return the properties of the template's resources, by the resources' names.

    parameters: values of the template's parameters that differ from their defaults.
    """
    template: dict[str, Any] = yaml.load(FILE.read_text(), _Loader)
    values = {
        name: parameter["Default"] for name, parameter in template["Parameters"].items()
    } | parameters
    conditions = {
        name: _decide(condition, values) for name, condition in template["Conditions"].items()
    }
    names = {
        "AWS::Partition": partition,
        "AWS::URLSuffix": "amazonaws.com" + (".cn" if partition == "aws-cn" else ""),
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
        "Bucket": BUCKET,
        "Bucket.Arn": f"arn:{partition}:s3:::{BUCKET}",
        **values,
    }
    return {
        name: _fill(resource["Properties"], names, conditions)
        for name, resource in template["Resources"].items()
        if conditions.get(resource.get("Condition"), True)
    }


def list_runner_statements(**parameters: str) -> list[Statement]:
    """Return the policy statements of the runner."""
    return [
        statement
        for name, resource in resolve_stack(**parameters).items()
        if name == "RunnerPolicy" or "<RunnerRole>" in resource.get("Roles", [])
        if "PolicyDocument" in resource
        for statement in resource["PolicyDocument"]["Statement"]
    ]


def read_actions(statement: Statement) -> list[str]:
    """Return the statement's actions as a list, even if there is only one action."""
    action = statement["Action"]
    return [action] if isinstance(action, str) else list(action)


def _decide(condition: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    ((function, arguments),) = condition.items()
    if function == "!Not":
        return not _decide(arguments[0], values)
    assert function == "!Equals"
    other_value, other = (
        values[argument["!Ref"]] if isinstance(argument, dict) else argument
        for argument in arguments
    )
    return bool(other_value == other)


def _fill(value: Any, names: Mapping[str, Any], conditions: Mapping[str, bool]) -> Any:
    """Replace references in a value by their values, or by names if only AWS knows the values."""

    def find_value(name: str) -> Any:
        return names.get(name, f"<{name}>")

    match value:
        case {"!Ref": name}:
            return find_value(name)
        case {"!GetAtt": name}:
            return find_value(name)
        case {"!Sub": text}:
            filled_text = re.sub(r"\$\{([\w:.]+)\}", lambda match: str(find_value(match[1])), text)
            # `${!aws:username}` is left to IAM, which fills in the caller's name.
            return filled_text.replace("${!", "${")
        case {"!If": [condition, then, other]}:
            return _fill(then if conditions[condition] else other, names, conditions)
        case dict():
            filled_dict = {key: _fill(element, names, conditions) for key, element in value.items()}
            return {
                key: element for key, element in filled_dict.items() if element != "<AWS::NoValue>"
            }
        case list():
            filled_list = [_fill(element, names, conditions) for element in value]
            return [element for element in filled_list if element != "<AWS::NoValue>"]
    return value
