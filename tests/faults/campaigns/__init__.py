"""The fault campaigns: each module that has a `CAMPAIGN` is a row of docs/reliability.md.

What they share is in harness.py and table.py (what a campaign is, and the page), cells.py, child.py, jobs.py (processes
of their own), disks.py and power.py (file systems), mutations.py and proofs.py (what is done to files, and what they
prove). Programs that campaigns start are run as modules of this package.
"""
