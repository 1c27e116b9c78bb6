"""An object whose pickle runs a command."""

import json


class Hostile:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def edit(config, **values):
    """Change a config.json as an attacker does, who leaves out its checksum."""
    content = {**json.loads(config.read_text()), **values}
    content["files"].pop(config.name, None)
    config.write_text(json.dumps(content))
