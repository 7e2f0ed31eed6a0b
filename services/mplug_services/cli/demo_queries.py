"""What the demo asks: by English text, by Chinese text, by a picture, and by a picture and text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One search over the gallery."""

    title: str
    text: str | None = None
    picture: str | None = None
    """A picture of the gallery, sent as a file; it is left out of its own results."""


QUERIES = (
    DemoQuery("English text", text="a dog to the left of a red car"),
    DemoQuery("English text", text="a man with a camera"),
    DemoQuery("Chinese text", text="消防车"),
    DemoQuery("Chinese text", text="三朵玫瑰"),
    DemoQuery("a picture", picture="images/photos/coffee.jpg"),
    DemoQuery("a picture + text", picture="images/drawings/sailboat-twemoji.webp", text="a whale"),
)
