"""How a store is doing: its file system, rights, processes, followers, growth and leftovers. Nothing is changed."""
