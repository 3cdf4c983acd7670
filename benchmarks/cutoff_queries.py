"""What ``cutoff.py`` asks: words, and what makes a photo an answer."""

from __future__ import annotations

# query: the words of a caption that make its photo an answer. A query counts only where 3 to 80
# photos answer it.
CAPTIONED = """
dog: dog dogs puppy puppies
snow: snow snowy
mountain: mountain mountains mountainside mountaintop mountainous
water: water waters lake ocean sea river stream pool pond wave waves
river: river rivers stream creek
lake: lake lakes
beach: beach beaches seashore shore
ocean: ocean sea waves wave
wave: wave waves
bicycle: bicycle bicycles bike bikes cyclist cyclists bicyclist bmx
motorcycle: motorcycle motorbike motorcycles motorcyclist
car: car cars
boat: boat boats rowboat canoe kayak raft
kayak: kayak kayaks canoe kayaker
raft: raft rafting rafts
man: man men guy
woman: woman women lady
boy: boy boys
girl: girl girls
child: child children kid kids toddler
baby: baby babies infant toddler
crowd: crowd crowds
hiker: hiker hikers hiking
climber: climber climbers climbing climbs
rock: rock rocks rocky boulder boulders
cliff: cliff cliffs ledge
grass: grass grassy lawn
field: field fields meadow
tree: tree trees
forest: forest woods wooded
flower: flower flowers
hat: hat hats cap
jacket: jacket jackets coat coats
scarf: scarf scarves
sunglasses: sunglasses
glasses: glasses eyeglasses sunglasses
helmet: helmet helmets
gloves: gloves mittens
jeans: jeans
dress: dress dresses gown
swimsuit: swimsuit bikini swimsuits trunks
backpack: backpack backpacks
ball: ball balls football basketball
tennis: tennis
soccer: soccer football
basketball: basketball
skateboard: skateboard skateboarder skateboarding skateboards
skier: ski skis skier skiing skiers
snowboard: snowboard snowboarder snowboarding
sled: sled sledding sleds sleigh
surfer: surf surfer surfing surfboard
swimming: swim swimming swims swimmer
swimming pool: pool
playground: playground
slide: slide slides
swing: swing swings
street: street streets road sidewalk
road: road roads street highway
sidewalk: sidewalk pavement
building: building buildings house
city: city cities urban
statue: statue statues sculpture
fountain: fountain fountains
fence: fence fences
bench: bench benches
stairs: stairs steps staircase stairway
bridge: bridge bridges
tent: tent tents
parachute: parachute parasail paraglider glider parachutes
guitar: guitar guitars
camera: camera cameras photographer
bird: bird birds duck ducks
horse: horse horses
cat: cat cats
fish: fish
fishing: fishing fisherman fisher
sand: sand sandy
desert: desert dunes dune
sunset: sunset dusk sunrise
night: night
park: park
umbrella: umbrella umbrellas
flag: flag flags
balloon: balloon balloons
toy: toy toys
stick: stick sticks
leash: leash
collar: collar
frisbee: frisbee disc
race: race racing racer races
gymnast: gymnast gymnastics leotard
costume: costume costumes
mask: mask masks
sky: sky
path: path trail
hill: hill hills hillside
dirt: dirt mud muddy
leaves: leaves
bag: bag bags purse
bottle: bottle bottles
food: food eating eats
"""

# Words that no caption holds (checked when they are used).
NOT_IN_CAPTIONS = """
submarine, violin, penguin, elephant, giraffe, zebra, lion, tiger, airplane, helicopter, grand
piano, trumpet, pizza, hamburger, spaghetti, sushi, computer keyboard, laptop, refrigerator,
washing machine, toaster, microscope, syringe, castle, lighthouse, windmill, igloo, volcano,
tornado, rocket, army tank, octopus, shark, whale, dolphin, jellyfish, lobster, crab, spider,
scorpion, snake, kangaroo, koala, panda, camel, pineapple, strawberry, banana, mushroom, cactus,
sunflower, chess board, wedding cake, stained glass window, banknote, telescope, saxophone,
wheelchair, traffic light, school bus, locomotive, teapot, vacuum cleaner
"""

# Classes of Caltech-101, or near them, of which none of the 25 folders has a photo.
NOT_IN_CLASSES = """
accordion, anchor, ant, barrel, beaver, binoculars, brontosaurus, camera, cannon, ceiling fan,
cell phone, chair, cougar, crab, crayfish, crocodile, cup, dalmatian, dollar bill, dolphin,
dragonfly, electric guitar, elephant, emu, euphonium, rooster, ferry, flamingo, gramophone,
headphones, hedgehog, roller skate, joshua tree, lamp, lobster, lotus, mandolin, mayfly,
minaret, nautilus, octopus, okapi, pagoda, panda, pigeon, pizza, platypus, pyramid, rhinoceros,
saxophone, scissors, sea horse, soccer ball, stapler, stegosaurus, stop sign, strawberry, tick,
water lily, wheelchair, wrench, yin yang
"""

NOT_A_THING = """
asdfgh qwertz, xyzzy, blorptastic, the meaning of life, quantum entropy, tax law, zxcvbnm,
inflation rate, lorem ipsum dolor, yesterday's regret, syntax error
"""

# What a person would type for a folder's name, where it is not the name itself.
CLASS_WORDS = {
    "Leopards": "leopard",
    "Motorbikes": "motorbike",
    "airplanes": "airplane",
    "buddha": "buddha statue",
    "car_side": "car",
    "hawksbill": "hawksbill turtle",
}


def words_of(text: str) -> list[str]:
    """The parts of a comma-separated text."""
    return [" ".join(part.split()) for part in text.split(",") if part.strip()]
