"""The store on JetStream beside a bare loop of nats-py: `python3 tools/dev.py jetstream --speed`."""
