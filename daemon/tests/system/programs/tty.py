# Says whether it has a terminal, and reads lines from it.
import os
import sys

print("tty", os.isatty(0) and os.isatty(1), flush=True)
number = 0
for line in sys.stdin:
    number += 1
    print("read", number, line.strip(), flush=True)
