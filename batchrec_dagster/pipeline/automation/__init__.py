"""The jobs, the schedule, the sensors and the alerts of a pipeline."""
