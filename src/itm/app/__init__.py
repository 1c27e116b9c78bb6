"""Where Hydra stops: `conf/`, building objects, arguments, messages about wrong options."""
