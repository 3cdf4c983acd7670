"""About six hundred things that people photograph: what a query is compared with.

A plain, well-spread vocabulary of everyday English, by subject. It says what scores look like for
words in general: for the cut-off of a query, for several labels an image, and as the negatives of
"none of these". No collection, label set or test chose these words.
"""

from __future__ import annotations

import functools

BACKGROUND_TEMPLATE = "a photo of a {}"
"""One template is enough here: the words serve together, never one by one."""

_BY_SUBJECT = {
    "people": """
        man, woman, child, baby, teenager, old man, old woman, couple, crowd, family, bride, groom,
        dancer, soldier, police officer, firefighter, doctor, nurse, chef, waiter, farmer, worker,
        student, teacher, musician, singer, athlete, cyclist, swimmer, fisherman, clown, face, hand,
        foot, eye, beard, tattoo, hairstyle, portrait
    """,
    "activities": """
        wedding, birthday party, concert, parade, picnic, meeting, classroom, football game,
        basketball game, tennis match, baseball game, boxing match, horse race, marathon, surfing,
        skiing, skateboarding, swimming, climbing, camping, fishing, yoga, ballet, theatre play,
        graduation, funeral, fireworks, market, construction work, road works
    """,
    "mammals": """
        dog, puppy, cat, kitten, horse, cow, sheep, goat, pig, donkey, rabbit, mouse, hamster,
        squirrel, hedgehog, fox, wolf, bear, deer, moose, lion, tiger, elephant, giraffe, zebra,
        rhinoceros, hippopotamus, camel, monkey, gorilla, panda, koala, bat, seal, dolphin, whale,
        otter, raccoon
    """,
    "birds": """
        bird, chicken, duck, goose, swan, pigeon, seagull, crow, owl, eagle, parrot, peacock,
        flamingo, penguin, ostrich, turkey, robin, woodpecker, hummingbird, stork
    """,
    "other animals": """
        snake, lizard, turtle, frog, crocodile, dinosaur skeleton, fish, goldfish, shark, octopus,
        jellyfish, crab, lobster, snail, shell, butterfly, bee, ant, beetle, spider, dragonfly,
        ladybird, caterpillar, coral reef
    """,
    "plants": """
        tree, palm tree, pine tree, bush, flower, rose, tulip, daisy, orchid, cactus, fern, grass,
        moss, leaf, mushroom, ivy, bamboo, hedge, houseplant, bouquet, tree trunk, blossom
    """,
    "landscapes": """
        mountain, hill, valley, cliff, cave, volcano, desert, beach, island, ocean, wave, lake,
        river, waterfall, pond, swamp, forest, field, meadow, farmland, vineyard, garden, park,
        snow, glacier, iceberg, canyon, rock, sand, path
    """,
    "sky and weather": """
        sky, cloud, sunset, sunrise, rainbow, lightning, storm, fog, rain, moon, stars, night sky,
        sun, frost
    """,
    "buildings": """
        house, apartment block, skyscraper, castle, palace, church, mosque, temple, tower,
        lighthouse, windmill, barn, factory, warehouse, hotel, hospital, school, library, museum,
        stadium, airport, train station, petrol station, shop, supermarket, restaurant, bar,
        bridge, dam, tunnel, ruins, tent, hut, greenhouse, swimming pool, playground, cemetery,
        roof, balcony, staircase, door, window, wall, fence, gate, fountain, statue, monument,
        chimney, arch, column
    """,
    "streets": """
        street, road, motorway, crossroads, pavement, car park, alley, town square, traffic light,
        street sign, street lamp, bench, bin, letterbox, telephone box, fire hydrant, billboard,
        graffiti, power line, skyline
    """,
    "transport": """
        car, sports car, taxi, bus, truck, van, tractor, motorcycle, scooter, bicycle, train, tram,
        locomotive, aeroplane, helicopter, hot air balloon, rocket, ship, sailing boat, rowing boat,
        canoe, ferry, submarine, tank, ambulance, fire engine, excavator, crane, trailer, wheel,
        engine, harbour
    """,
    "rooms": """
        kitchen, living room, bedroom, bathroom, office, corridor, attic, garage, workshop,
        laboratory, stage, cinema, gym
    """,
    "furniture": """
        chair, armchair, sofa, table, desk, bed, cupboard, shelf, bookcase, drawer, mirror, lamp,
        carpet, curtain, pillow, blanket, fireplace, ceiling, stove, bathtub, shower, toilet, sink
    """,
    "household": """
        cup, mug, glass, bottle, plate, bowl, spoon, fork, knife, pan, pot, kettle, toaster,
        refrigerator, washing machine, vacuum cleaner, broom, bucket, basket, box, jar, vase,
        candle, clock, umbrella, key, lock, towel, soap, toothbrush, iron, sewing machine, rope,
        ladder, pipe, mattress, teapot
    """,
    "tools and machines": """
        hammer, screwdriver, saw, drill, axe, shovel, scissors, wrench, nail, screw, chain, gear,
        tape measure, paintbrush, lawn mower, wheelbarrow, flashlight, solar panel, wind turbine,
        battery, circuit board
    """,
    "electronics": """
        computer, keyboard, screen, telephone, mobile phone, television, radio, camera, headphones,
        loudspeaker, microphone, printer, robot, game console, cable, remote control, drone
    """,
    "clothes": """
        shirt, dress, skirt, trousers, jeans, suit, tie, coat, jacket, sweater, scarf, glove, hat,
        cap, helmet, shoe, boot, sandal, sock, belt, glasses, sunglasses, ring, necklace, earring,
        bracelet, handbag, backpack, suitcase, uniform, swimsuit, costume, mask, crown, wig
    """,
    "food": """
        bread, cake, pie, cookie, pizza, hamburger, sandwich, hot dog, pasta, rice, soup, salad,
        steak, sausage, bacon, roast chicken, fried fish, sushi, egg, cheese, butter, chocolate,
        ice cream, pancake, doughnut, honey, breakfast, dinner table, chips, noodles
    """,
    "fruit and vegetables": """
        apple, orange, banana, lemon, strawberry, cherry, grape, pear, peach, pineapple, melon,
        tomato, potato, carrot, onion, pepper, cucumber, cabbage, pumpkin, corn, bean, nut, olive,
        garlic
    """,
    "drinks": "coffee, tea, beer, wine, milk, orange juice, cocktail, water glass",
    "music and play": """
        guitar, piano, violin, drum, trumpet, flute, accordion, harp, saxophone, ball, doll,
        teddy bear, toy car, kite, chess board, playing cards, puzzle, swing, slide, carousel,
        roller coaster, snowman, balloon, bubbles, skateboard, surfboard, sled, trophy, medal
    """,
    "paper and art": """
        book, newspaper, magazine, letter, map, poster, painting, drawing, sculpture, photograph,
        calendar, notebook, pen, pencil, stamp, banknote, coin, flag, logo, diagram, handwriting,
        receipt, menu, screenshot, cartoon, pattern, texture, stained glass, mosaic
    """,
    "other": """
        fire, smoke, ice, water drop, shadow, reflection, silhouette, feather, bone, skull,
        egg shell, nest, spider web, footprint, wood, stone, brick, metal, rust, glass window,
        gold, diamond, wheelchair, stethoscope, pills, syringe, bandage, gun, sword, cannon,
        telescope, microscope, globe, compass, gift, christmas tree, cross, rubbish heap,
        hay bale, scarecrow, anchor, bell
    """,
}


@functools.cache
def background_words() -> tuple[str, ...]:
    """The words, no two alike, in a fixed order."""
    words = (" ".join(word.split()) for part in _BY_SUBJECT.values() for word in part.split(","))
    return tuple(dict.fromkeys(words))


@functools.cache
def background_prompts() -> tuple[str, ...]:
    """The words as what is encoded, in the order of ``background_words``."""
    return tuple(BACKGROUND_TEMPLATE.format(word) for word in background_words())
