"""Facts and sentences about the lists, without HTML, a terminal or Dagster."""
