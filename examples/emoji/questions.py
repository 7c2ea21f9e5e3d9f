"""What is asked about a drawing, and the text questions that come after one."""

from .catalogue import GROUPS

NAME_QUESTION = "What is this?"
GROUP_QUESTION = (
    "Which group is this from: " + ", ".join(list(GROUPS)[:-1]) + f" or {list(GROUPS)[-1]}?"
)
CAPITALS = (
    "France Paris|Italy Rome|Spain Madrid|Germany Berlin"
    "|Japan Tokyo|China Beijing|Russia Moscow|Egypt Cairo"
    "|Greece Athens|Portugal Lisbon|Austria Vienna"
    "|Poland Warsaw|Ireland Dublin|Norway Oslo|Sweden Stockholm"
    "|Finland Helsinki|Denmark Copenhagen|Hungary Budapest"
    "|Cuba Havana|Peru Lima|Kenya Nairobi|India Delhi"
    "|Thailand Bangkok|Vietnam Hanoi|Iran Tehran"
    "|Iraq Baghdad|Canada Ottawa|Mexico Mexico|Argentina Buenos"
    "|Chile Santiago|Belgium Brussels|Scotland Edinburgh|Wales Cardiff|England London|Turkey Ankara"
    "|Lebanon Beirut|Syria Damascus|Cambodia Phnom|Bulgaria Sofia|Romania Bucharest|Serbia Belgrade"
    "|Croatia Zagreb|Ukraine Kyiv|Latvia Riga|Estonia Tallinn|Iceland Reykjavik|Indonesia Jakarta"
    "|Philippines Manila|Malaysia Kuala|Australia Canberra"
)
OPPOSITES = (
    "hot cold|big small|fast slow|happy sad|day night"
    "|up down|left right|open closed|hard soft|old young"
    "|rich poor|wet dry|strong weak|early late|full empty"
    "|light dark|high low|long short|good bad|loud quiet"
    "|clean dirty|heavy light|deep shallow|wide narrow"
    "|brave cowardly|alive dead|cheap expensive|near far"
)
LANGUAGES = (
    "Brazil Portuguese|Mexico Spanish|Austria German"
    "|Egypt Arabic|Iran Persian|Japan Japanese|China Chinese"
    "|Argentina Spanish|Italy Italian|France French"
    "|Russia Russian|Sweden Swedish|Poland Polish|Greece Greek"
    "|Turkey Turkish|Thailand Thai|Vietnam Vietnamese"
    "|Hungary Hungarian|Portugal Portuguese|Israel Hebrew"
)
CONTINENTS = (
    "Kenya Africa|Brazil South America|Japan Asia"
    "|Germany Europe|Nigeria Africa|India Asia|Peru South America"
    "|Spain Europe|Egypt Africa|China Asia"
    "|Canada North America|Sweden Europe|Ghana Africa|Vietnam Asia"
    "|Italy Europe|Chile South America|Morocco Africa|Poland Europe|Mongolia Asia|Greece Europe"
)
FACTS = (
    ("What is the capital of {}?", CAPITALS),
    ("What is the opposite of the word '{}'?", OPPOSITES),
    ("Which language do most people in {} speak?", LANGUAGES),
    ("On which continent is {}?", CONTINENTS),
)


def text_questions() -> list[tuple[str, str]]:
    """Every text question with the word that a right answer contains."""
    found = []
    for question, pairs in FACTS:
        for pair in pairs.split("|"):
            asked, answer = pair.split(" ", 1)
            found.append((question.format(asked), answer))
    return found
