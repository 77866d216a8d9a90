"""What a measurement of the GPU kit may do: answer, fail, hang with a child, or say that it cannot be done."""

import json
import os
import subprocess
import sys
import time


def main() -> int:
    """Do what the last argument says."""
    what, *rest = sys.argv[-1].split()
    if what == "answers":
        seen = {name: os.environ.get(name) for name in ("KIT_SECONDS", "CUDA_VISIBLE_DEVICES")}
        sys.stdout.write("loaded\n" + json.dumps({"arguments": sys.argv[1:-1], **seen}))
    elif what == "finds":
        sys.stdout.write(json.dumps({"passed": ["a"], "failed": ["b"], "why": "failed: b"}))
        return 1
    elif what == "skips":
        sys.stdout.write(json.dumps({"skipped": "too large"}))
    elif what == "fails":
        raise ValueError("the matrix is singular")
    elif what == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        with open(rest[0], "w") as file:
            file.write(str(child.pid))
        time.sleep(1000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
