"""The nouns of the agreement tasks, each in both numbers.

Here: a list of common countable nouns whose plural differs from their singular, in four kinds,
so that a phrase can ask for one that remembers or describes. Next door, in
`agreement_phrases`: the phrases that they are put into. Deliberately not here: nouns with one
form for both numbers (sheep), plurals without a singular (scissors), mass nouns (water) and
collective ones (team), whose verb may take either number.
"""

from dataclasses import dataclass
from typing import Literal

Number = Literal["singular", "plural"]
NounKind = Literal["person", "animal", "thing", "place"]

NUMBERS: tuple[Number, Number] = ("singular", "plural")


def opposite(number: Number) -> Number:
    """Plural for singular, singular for plural."""
    return "plural" if number == "singular" else "singular"


@dataclass(frozen=True)
class Noun:
    """A countable noun.

    Raises:
        ValueError: the two forms are the same, so that no phrase could tell its number.
    """

    singular: str
    plural: str
    kind: NounKind

    def __post_init__(self) -> None:
        if self.singular == self.plural:
            raise ValueError(
                f"a noun's plural must differ from its singular, got {self.singular!r} for both"
            )

    def form(self, number: Number) -> str:
        """The noun in this number."""
        return self.singular if number == "singular" else self.plural


# singular/plural, in alphabetical order. Written out rather than derived by a rule: English has
# too many exceptions, and a reader can check a list.
_PEOPLE = """
accountant/accountants actor/actors actress/actresses adult/adults architect/architects
artist/artists astronaut/astronauts athlete/athletes author/authors baby/babies baker/bakers
banker/bankers barber/barbers boss/bosses boy/boys bride/brides builder/builders
butcher/butchers carpenter/carpenters chef/chefs child/children citizen/citizens clerk/clerks
coach/coaches cook/cooks dancer/dancers daughter/daughters dentist/dentists designer/designers
detective/detectives director/directors doctor/doctors driver/drivers editor/editors
employee/employees engineer/engineers farmer/farmers father/fathers fireman/firemen
fisherman/fishermen friend/friends gardener/gardeners girl/girls grandchild/grandchildren
grandmother/grandmothers guard/guards guest/guests hairdresser/hairdressers hero/heroes
hunter/hunters journalist/journalists judge/judges king/kings lady/ladies lawyer/lawyers
librarian/librarians man/men manager/managers mayor/mayors mechanic/mechanics merchant/merchants
midwife/midwives minister/ministers mother/mothers musician/musicians neighbor/neighbors
nephew/nephews nurse/nurses officer/officers painter/painters parent/parents
passenger/passengers person/people pilot/pilots plumber/plumbers poet/poets policeman/policemen
prince/princes princess/princesses prisoner/prisoners professor/professors queen/queens
sailor/sailors salesman/salesmen scientist/scientists secretary/secretaries senator/senators
singer/singers sister/sisters soldier/soldiers student/students surgeon/surgeons tailor/tailors
teacher/teachers thief/thieves tourist/tourists uncle/uncles waiter/waiters waitress/waitresses
wife/wives witness/witnesses woman/women writer/writers
"""

_ANIMALS = """
ant/ants bat/bats bear/bears beaver/beavers bee/bees beetle/beetles bird/birds
butterfly/butterflies calf/calves camel/camels canary/canaries cat/cats chicken/chickens
cow/cows crab/crabs crocodile/crocodiles crow/crows dog/dogs dolphin/dolphins donkey/donkeys
dove/doves duck/ducks eagle/eagles elephant/elephants finch/finches fly/flies fox/foxes
frog/frogs giraffe/giraffes goat/goats goose/geese hamster/hamsters hawk/hawks hen/hens
horse/horses kitten/kittens lamb/lambs leopard/leopards lion/lions lizard/lizards llama/llamas
monkey/monkeys mosquito/mosquitoes mouse/mice octopus/octopuses ostrich/ostriches owl/owls
ox/oxen parrot/parrots penguin/penguins pig/pigs pigeon/pigeons pony/ponies puppy/puppies
rabbit/rabbits rat/rats shark/sharks snail/snails snake/snakes spider/spiders squirrel/squirrels
tiger/tigers turkey/turkeys turtle/turtles wasp/wasps whale/whales wolf/wolves worm/worms
zebra/zebras
"""

_THINGS = """
apple/apples axe/axes bag/bags ball/balls balloon/balloons banana/bananas basket/baskets
battery/batteries bed/beds bell/bells belt/belts bench/benches berry/berries bicycle/bicycles
blanket/blankets boat/boats book/books bottle/bottles bowl/bowls box/boxes branch/branches
brick/bricks broom/brooms brush/brushes bucket/buckets bus/buses button/buttons cable/cables
cactus/cacti cake/cakes camera/cameras candle/candles car/cars card/cards carpet/carpets
chair/chairs cherry/cherries clock/clocks coat/coats coin/coins computer/computers couch/couches
cup/cups curtain/curtains desk/desks diary/diaries dictionary/dictionaries dish/dishes
doll/dolls dress/dresses drum/drums engine/engines envelope/envelopes flag/flags flower/flowers
fork/forks guitar/guitars hammer/hammers hat/hats helmet/helmets jacket/jackets jar/jars
key/keys knife/knives ladder/ladders lamp/lamps leaf/leaves lemon/lemons letter/letters
loaf/loaves lock/locks machine/machines magazine/magazines map/maps match/matches medal/medals
mirror/mirrors mushroom/mushrooms nail/nails necklace/necklaces needle/needles
newspaper/newspapers orange/oranges paddle/paddles painting/paintings peach/peaches pear/pears
pen/pens pencil/pencils phone/phones photo/photos piano/pianos pillow/pillows pipe/pipes
plate/plates potato/potatoes purse/purses radio/radios ring/rings robot/robots rope/ropes
rug/rugs sandwich/sandwiches scarf/scarves sculpture/sculptures shelf/shelves shirt/shirts
shoe/shoes shovel/shovels sofa/sofas spoon/spoons statue/statues stone/stones suitcase/suitcases
sword/swords table/tables tent/tents ticket/tickets tomato/tomatoes tooth/teeth torch/torches
towel/towels toy/toys tractor/tractors tray/trays truck/trucks trumpet/trumpets
umbrella/umbrellas vase/vases violin/violins wallet/wallets watch/watches wheel/wheels
"""

_PLACES = """
airport/airports bakery/bakeries balcony/balconies bank/banks barn/barns beach/beaches
bridge/bridges building/buildings cabin/cabins castle/castles cathedral/cathedrals cave/caves
church/churches cliff/cliffs college/colleges cottage/cottages door/doors embassy/embassies
factory/factories farm/farms fence/fences field/fields forest/forests fountain/fountains
garage/garages garden/gardens gate/gates hill/hills hospital/hospitals hotel/hotels house/houses
island/islands kitchen/kitchens lake/lakes library/libraries lighthouse/lighthouses
mansion/mansions market/markets mountain/mountains museum/museums office/offices palace/palaces
park/parks restaurant/restaurants river/rivers road/roads roof/roofs school/schools shop/shops
stadium/stadiums station/stations store/stores street/streets studio/studios temple/temples
theater/theaters tower/towers tree/trees tunnel/tunnels villa/villas village/villages wall/walls
warehouse/warehouses window/windows
"""


def _nouns(kind: NounKind, words: str) -> tuple[Noun, ...]:
    pairs = (pair.split("/") for pair in words.split())
    return tuple(Noun(singular, plural, kind) for singular, plural in pairs)


NOUNS: tuple[Noun, ...] = (
    *_nouns("person", _PEOPLE),
    *_nouns("animal", _ANIMALS),
    *_nouns("thing", _THINGS),
    *_nouns("place", _PLACES),
)
