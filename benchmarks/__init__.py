"""Speed and memory, measured side by side in one run; each prints a table and writes JSON."""
