"""What the demo asks: searches by text and picture, captions, and questions about single pictures."""

from dataclasses import dataclass

PROMPT_ZH = "图中"
"""What mplug-mini's Chinese captions begin with; its English ones need no prompt."""
RERANKED = 24
"""Best hits of a search by text that are looked at again, together with the text."""


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """One search over the gallery."""

    title: str
    text: str | None = None
    picture: str | None = None
    """A picture of the gallery, sent as a file; it is left out of its own results."""

    @property
    def reranked(self) -> int:
        """How many hits are reranked; none where a picture asks too, which the reranker would not see."""
        return RERANKED if self.picture is None else 0


QUERIES = (
    DemoQuery("English text", text="a dog to the left of a red car"),
    DemoQuery("English text", text="a man with a camera"),
    DemoQuery("Chinese text", text="消防车"),
    DemoQuery("Chinese text", text="三朵玫瑰"),
    DemoQuery("a picture", picture="images/photos/coffee.jpg"),
    DemoQuery("a picture + text", picture="images/drawings/sailboat-twemoji.webp", text="a whale"),
)


@dataclass(frozen=True, slots=True)
class DemoPicture:
    """A picture of the gallery that is captioned, and what is asked about it."""

    picture: str
    questions: tuple[str, ...]


PICTURES = (
    DemoPicture("images/photos/astronaut.jpg", ("what is the woman doing?", "图片里有几个人？")),
    DemoPicture("images/photos/camera.jpg", ("where was this picture taken?", "图片里的男人在做什么？")),
    DemoPicture("images/photos/chelsea.jpg", ("is there a cat in the picture?", "图片里是什么动物？")),
    DemoPicture("images/photos/china.jpg", ("is there snow in the picture?", "图片里有狗吗？")),
    DemoPicture("images/photos/coffee.jpg", ("is this food or drink?", "这是什么？")),
    DemoPicture("images/photos/flower.jpg", ("what color is the flower?", "花是什么颜色的？")),
    DemoPicture("images/photos/rocket.jpg", ("is this a vehicle or place?", "图片里有火箭吗？")),
    DemoPicture("images/drawings/fire-truck-fluent.webp", ("what is this?", "这是哪一类图片？")),
    DemoPicture("images/drawings/panda-noto.webp", ("what kind of picture is this?", "这是什么？")),
    DemoPicture(
        "images/scenes/dog-left-red-car.webp", ("what is to the left of the car?", "背景是什么颜色？")
    ),
    DemoPicture("images/scenes/cat-count2.webp", ("how many things are in the picture?", "图片里有几只猫？")),
    DemoPicture(
        "images/scenes/kite-above-house.webp", ("what color is the background?", "房子的上面是什么？")
    ),
)
"""Questions in the words and of the kinds that mplug-mini has learnt."""
