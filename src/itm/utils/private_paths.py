"""Replace the paths of this computer in texts that are kept or published, such as commands."""

import re
from collections.abc import Callable


def _path(blank: str) -> re.Pattern[str]:
    """Return the pattern of a path that ends before `blank`."""
    return re.compile(
        rf"""
        (?<![\w./\\$}}])                     # not within a path, a number or an address
        (?P<scheme> file: )?
        (?: [A-Za-z]:[\\/] | \\\\            # a drive, a server of Windows
          | (?: ~[\w.-]* | \.{{1,2}} )[\\/]  # a home folder, a relative path
          | /(?!/) | (?<!:)/ | (?<=file:)/   # from the root; not the // of an address
          | (?<=:)///(?=/|[A-Za-z]:) )       # sqlite:////home/...
        (?: [^/\\{blank}'",\[\]{{}}]* [/\\] )* (?P<last> [^/\\{blank}'",\[\]{{}}]+ ) [/\\]*
        """,
        re.VERBOSE,
    )


PATH, WITH_BLANKS = _path(r"\s"), _path("")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")  # where a path may hold blanks


def replace_paths(text: str, shown: Callable[[str, str], str]) -> str:
    """Replace each path in a text.

    A path may hold blanks where it is within quotes, or is the whole text.

    Args:
        text: such as a command.
        shown: ("file:" or "", last part of a path) -> what stands in its place.

    Examples:
        >>> replace_paths("data.root=/home/anna/f30k lr=1", lambda scheme, last: last)
        'data.root=f30k lr=1'
    """

    def replaced(pattern: re.Pattern[str], part: str) -> str:
        return pattern.sub(lambda path: shown(path["scheme"] or "", path["last"]), part)

    if WITH_BLANKS.match(text) and len(PATH.findall(text)) == 1:
        return replaced(WITH_BLANKS, text)
    return replaced(PATH, QUOTED.sub(lambda quoted: replaced(WITH_BLANKS, quoted[0]), text))
