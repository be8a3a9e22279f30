"""The store in a folder: an append goes into the journal and into its stream, a read takes either."""
