"""eventsourcing's own cases on hangarlog."""


def test_it_imports() -> None:
    import eventsourcing.persistence  # noqa: F401
