"""The steps behind the Dagster assets: functions that take and return typed records."""
