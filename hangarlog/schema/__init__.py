"""Schema evolution: the wire shape of every event type at every version, and whether today's code can read them all.

Imports go one way: describe → lockfile → compare, sample → check, history. Appending and reading do not need this
package.
"""
