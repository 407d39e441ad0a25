"""Names in one setting."""


class Names(tuple[str, ...]):
    """Names, separated by commas."""

    @classmethod
    def parse(cls, text: str) -> "Names":
        return cls(name for name in (name.strip() for name in text.split(",")) if name)

    def __str__(self) -> str:
        return ",".join(self)
