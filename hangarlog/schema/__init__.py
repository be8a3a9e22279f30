"""Schema evolution: what events looked like at every version, and whether all of it can be read today.

Data flows one way: describe → lockfile → compare, sample → check, history. None of it is needed to append or read.
"""
