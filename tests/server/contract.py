"""What the contract suites share: the client's own classes as a measure."""


def strict(item, kind):
    """The item again, checked as the client's class says, which the client itself does not do."""
    return kind.model_validate(item.model_dump(exclude_unset=True), strict=True)
