"""Jobs, schedule, sensors and alerts of a pipeline."""
