"""Keep Hydra out of the library: find `conf/`, build objects, run commands, explain errors."""
