"""What the generated reviewers write: opinion sentences by attribute and polarity, and the words around them.

`{thing}` is the product's noun. Written to be as varied and as plain as short real reviews are.
"""

from typing import Final

# attribute -> (sentences that praise it, sentences that complain about it)
OPINIONS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "sound": (
        (
            "The sound is rich and clear.",
            "Great sound, with deep bass.",
            "It sounds fantastic even at low volume.",
            "The audio quality is superb for this size.",
            "Voices come through crisp and the bass is warm.",
            "I love the balanced sound.",
        ),
        (
            "The sound is thin and muddy.",
            "Terrible sound, everything is tinny.",
            "The audio crackles at high volume.",
            "The bass is weak and boomy at once.",
            "It sounds hollow, like a tin can.",
            "The sound quality is disappointing.",
        ),
    ),
    "battery": (
        (
            "The battery lasts for days.",
            "Battery life is excellent.",
            "The battery charges fast and holds well.",
            "I rarely have to charge the battery.",
            "Amazing battery, two weeks on one charge.",
        ),
        (
            "The battery dies fast.",
            "Battery life is awful.",
            "The battery is weak and drains overnight.",
            "After a month the battery is useless.",
            "The charger is slow and the battery never gets full.",
        ),
    ),
    "durability": (
        (
            "The {thing} is sturdy and well built.",
            "Solid build, it survived two falls.",
            "The joints are strong and the material is tough.",
            "After a year of daily use it is still like new.",
            "Very durable, nothing rattles.",
        ),
        (
            "The {thing} broke after two weeks.",
            "The plastic is flimsy and cracked at once.",
            "The build is cheap and fragile.",
            "The hinge is loose and the finish peels.",
            "It fell apart, really poor material.",
        ),
    ),
    "price": (
        (
            "The price is great for what you get.",
            "Good value for the money.",
            "Cheap, and it does the job.",
            "For this price it is a bargain.",
            "Very affordable.",
        ),
        (
            "The price is too high.",
            "Overpriced for what it is.",
            "It is expensive and not worth the money.",
            "Bad value, I paid far too much.",
            "The price is outrageous.",
        ),
    ),
    "comfort": (
        (
            "It is very comfortable, even for hours.",
            "The surface is soft and comfortable.",
            "Comfortable fit, I forget that I have it.",
            "The grip feels pleasant.",
            "The fit is perfect and nothing pinches.",
        ),
        (
            "It is uncomfortable after ten minutes.",
            "The surface is hard and it hurts.",
            "The fit is tight and painful.",
            "The edges are sharp and the grip is awkward.",
            "The material is scratchy and uncomfortable.",
        ),
    ),
    "design": (
        (
            "The design is elegant.",
            "It looks beautiful on my desk.",
            "Lovely color and a sleek look.",
            "The finish is gorgeous.",
            "Stylish design, I get compliments all the time.",
        ),
        (
            "The design is ugly.",
            "The color is dull and not as pictured.",
            "It looks cheap.",
            "The finish is blotchy and the logo is tacky.",
            "Clumsy design, an eyesore.",
        ),
    ),
    "ease of use": (
        (
            "It is easy to use, no manual needed.",
            "Setup was simple and quick.",
            "The controls are intuitive.",
            "Easy to clean and easy to store.",
            "The buttons are large and the menu is clear.",
        ),
        (
            "It is hard to use and the manual is useless.",
            "Setup was confusing and slow.",
            "The controls are clumsy.",
            "Difficult to clean, a real chore.",
            "The buttons are tiny and the menu is confusing.",
        ),
    ),
    "size": (
        (
            "The size is perfect for travel.",
            "Small and light, it fits in my bag.",
            "Compact size and low weight.",
            "Just the right size, not bulky at all.",
        ),
        (
            "The size is wrong, far too big.",
            "It is bulky and heavy.",
            "Too heavy to carry around.",
            "The size is too small to be useful.",
        ),
    ),
}

OPENINGS: Final = (
    "I have had this {thing} for {weeks} weeks.",
    "Bought this {thing} for my {person}.",
    "This replaced my old {thing}.",
    "My second {thing} from {brand}.",
    "Got the {title} last month.",
    "I use this {thing} nearly every day.",
    "Ordered this on a whim.",
    "",
    "",
)
CLOSINGS_GOOD: Final = ("Would buy it again.", "Highly recommended.", "Very happy with it.", "Five stars from me.", "")
CLOSINGS_BAD: Final = ("I sent it back.", "I would not buy it again.", "Look elsewhere.", "What a letdown.", "")
CLOSINGS_MIXED: Final = ("It is okay overall.", "You get what you pay for.", "It does the job.", "", "")
TITLES_GOOD: Final = ("Love it", "Great {thing}", "Exactly what I wanted", "Excellent", "Good buy")
TITLES_BAD: Final = ("Disappointed", "Not for me", "Avoid this {thing}", "Poor", "Regret it")
TITLES_MIXED: Final = ("It is fine", "Mixed feelings", "Okay {thing}", "Decent", "So-so")
PEOPLE: Final = ("wife", "husband", "daughter", "son", "mother", "father", "roommate", "brother")
