"""Where Hydra stops: find `conf/`, build objects, run commands, explain wrong options."""
