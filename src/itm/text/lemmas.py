"""Map plural nouns to the singular by rules and a table; WordNet's morphy would need a download."""

# Irregular plurals. WordNet lists "men" and "clothes" as separate words.
PLURALS = {
    "men": "men", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "geese": "goose", "mice": "mouse", "knives": "knife", "wives": "wife", "lives": "life",
    "leaves": "leaf", "loaves": "loaf", "halves": "half", "calves": "calf", "wolves": "wolf",
    "shelves": "shelf", "scarves": "scarf", "hooves": "hoof", "clothes": "clothes",
    "bookshelves": "bookshelf", "headscarves": "headscarf", "busses": "bus",
}  # fmt: skip
# Singular words that look like plurals; their own plurals end in -es (lenses).
_WHOLE = """
atlas canvas chaos christmas focus gas gps iris lens octopus rhinoceros series species texas thermos
"""
# Words whose plural only adds -s, although it looks like a plural in -ies, -oes or -ches, or like
# a singular (skis).
_WITH_S = """
bowtie brownie calorie collie cookie hoodie movie necktie ollie selfie twinkie veggie zombie
canoe doe hoe horseshoe shoe snowshoe tiptoe toe moustache mustache posse
bikini capri khaki kiwi lei menu pepperoni sari semi ski taxi tutu waterski
"""
ES = ("sses", "shes", "ches", "xes", "zzes", "oes", "buses")
WHOLE, WITH_S = frozenset(_WHOLE.split()), frozenset(_WITH_S.split())


def noun_lemma(word: str) -> str:
    """Find the singular of a noun by its ending, in agreement with WordNet's morphy on captions.

    As in the published evaluation, it is applied to every word, even to verbs ("has" becomes "ha").

    Examples:
        >>> [noun_lemma(word) for word in "dogs boxes ladies women glass buses is".split()]
        ['dog', 'box', 'lady', 'woman', 'glass', 'bus', 'is']
    """
    if word in PLURALS:
        return PLURALS[word]
    if word in WHOLE:
        return word
    if word.endswith("s") and word[:-1] in WITH_S:
        return word[:-1]
    if word.endswith("men") and len(word) > 5:
        return word[:-3] + "man"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(ES) or (word.endswith("es") and word[:-2] in WHOLE):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "'s")) and len(word) > 2:
        return word[:-1]
    return word
