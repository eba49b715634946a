"""Write docs/cli.md: the --help of graft and of each of its commands, as a terminal of 100 columns shows it.

python docs/make_cli.py
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
OPENING = """\
# The command line

Written by `python docs/make_cli.py`; a test compares it with the program. What the options mean in use stands in
[Train: graft fit](fit.md), [Strategies](strategies/index.md), [Training](training.md), [Runs](runs.md),
[Features](features.md), [Images from the web](collect.md), [Check images](check.md), [Backbones](backbones.md),
[The classifier](classifier.md) and [Change the classes](update.md).

`graft --install-completion` makes the shell you are in (bash, zsh, fish, PowerShell) complete commands, options and
the names of strategies, heads, networks, devices and export formats; `graft --show-completion` prints what it would
install. Files are completed by the shell itself.
"""


def page() -> str:
    """The whole page."""
    program = shown()
    names = commands(program)
    with ThreadPoolExecutor(2) as threads:
        return "\n".join([OPENING, section("graft", program), *map(section, names, threads.map(shown, names))])


def section(name: str, text: str) -> str:
    title = name if name == "graft" else f"graft {name}"
    return f"## {title}\n\n```text\n{text}\n```\n"


def shown(*command: str) -> str:
    """What `graft COMMAND --help` prints, without colours and without spaces at the end of lines."""
    graft = shutil.which("graft", path=str(Path(sys.executable).parent))
    assert graft, "graft is not installed beside this Python: run `make setup`"
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    plain |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([graft, *command, "--help"], env=plain, capture_output=True, encoding="utf-8", check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def commands(program: str) -> list[str]:
    """The names that the program's own help lists under Commands."""
    listed = program.partition("\nCommands:\n")[2]
    return re.findall(r"^  ([a-z]\S*) ", listed, re.MULTILINE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
