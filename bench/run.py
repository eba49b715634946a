"""The measurements that bench/README.md quotes, one after the other.

Those of strategies take hours, those of exports and the server need other packages: each has its own command there.

python bench/run.py [../shared/data]
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Run the scripts as a person would, so that what they print can be pasted."""
    data = sys.argv[1] if len(sys.argv) > 1 else "../shared/data"
    commands = [
        ["speed.py", f"{data}/flowers5"],
        ["flowers.py", f"{data}/flowers5"],
        ["accuracy.py", data],
        ["honesty.py", data],
        ["unknown.py", data],
        ["resize.py", *(f"{data}/{name}" for name in ("flowers5", "clothing10", "rsscn7_sub"))],
        ["memory.py"],
        ["choices.py", data],
        ["faults.py", f"{data}/flowers5", f"{data}/clothing10"],
        ["check.py", "--quick"],
        ["update.py", data],
        ["loop.py"],
    ]
    for script, *arguments in commands:
        print(f"\n$ python bench/{script} {' '.join(arguments)}\n", flush=True)
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)


if __name__ == "__main__":
    main()
