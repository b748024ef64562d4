"""Speed and memory, measured side by side in one run. Each prints a table and writes JSON."""
