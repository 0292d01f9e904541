"""What `pip-audit --format json` found: 1 where a flaw is known, else 0; it says so where nothing was looked up."""

import json
import sys
from pathlib import Path


def main(file: Path) -> int:
    """Judge the file."""
    packages = json.loads(file.read_text())["dependencies"] if file.is_file() else []
    looked_up = [one for one in packages if "vulns" in one]
    for one in looked_up:
        for flaw in one["vulns"]:
            better = ", ".join(flaw["fix_versions"]) or "no version yet"
            print(f"audit: {one['name']} {one['version']}: {flaw['id']}, mended in {better}")
    flaws = sum(len(one["vulns"]) for one in looked_up)
    if not looked_up:
        print("audit: NOT DONE: the advisory database cannot be reached, or knows none of the packages")
    else:
        print(f"audit: {flaws} known flaws in {len(looked_up)} of {len(packages)} packages that could be looked up")
    return 1 if flaws else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
