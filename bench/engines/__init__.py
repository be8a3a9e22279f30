"""The engines: a name goes in, an engine comes out. Each module wraps one store in the interface of the harness."""
