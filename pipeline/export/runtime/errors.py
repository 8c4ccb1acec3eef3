"""What can be wrong with a bundle, and with a row."""


class BundleError(ValueError):
    """A bundle that is not as it was exported, or that this version does not read; names the file."""


class FieldError(ValueError):
    """A value that the model's schema refuses, or a row that no number comes out for."""

    def __init__(self, field: str | None, row: int | None, reason: str) -> None:
        self.field, self.row, self.reason = field, row, reason
        where = [*([] if row is None else [f"row {row}"]), *([] if field is None else [field])]
        super().__init__(f"{', '.join(where)}: {reason}")

    def moved(self, rows: int) -> "FieldError":
        """The same, where `rows` rows stand before those that were looked at."""
        return self if self.row is None else FieldError(self.field, self.row + rows, self.reason)
