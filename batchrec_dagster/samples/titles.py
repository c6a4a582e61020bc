"""Invented titles that hint at a movie's genre."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

ADJECTIVES = """
    Amber Ancient Autumn Bitter Black Blind Blue Borrowed Bright Broken Burning Careless Cold
    Crimson Crooked Dancing Dark Distant Double Empty Endless Eternal Faded Fallen Fearless Final
    First Forgotten Fragile Frozen Gentle Golden Grey Half Hidden Hollow Honest Hungry Invisible
    Iron Last Little Lonely Long Lost Lucky Midnight Modern Naked Northern Old Painted Paper Patient
    Perfect Pink Pretty Proud Quiet Red Restless Rising Sacred Savage Scarlet Second Secret Seventh
    Silent Silver Simple Sleeping Stolen Strange Sudden Summer Sweet Tender Third Twisted Velvet
    Violent Wandering White Wicked Wild Winter Wooden Yellow
"""

NOUNS = {
    "Drama": "Letters Daughters Silence Mercy Orchard Harvest Promise Sorrow Tenants Inheritance",
    "Comedy": "Honeymoon Nephew Dentist Landlord Wedding Roommate Waiter Holiday Barber Neighbours",
    "Action": "Strike Fury Impact Pursuit Commando Vengeance Overdrive Fist Convoy Countdown",
    "Thriller": "Witness Alibi Passenger Informant Pretence Deception Hostage Signal Motive Trace",
    "Crime": "Heist Syndicate Detective Verdict Smuggler Racket Getaway Godson Ledger Precinct",
    "Horror": "Cellar Crypt Possession Scream Harrowing Coven Asylum Parasite Nightmare Doll",
    "Romance": "Kiss Waltz Heart Valentine Embrace Suitor Proposal Café Serenade Rendezvous",
    "Documentary": "Voices Archive Portrait Glaciers Tides Election Kitchen Migration Bees Choir",
    "Adventure": "Expedition Compass Treasure Voyage Island Caravan Summit Jungle Corsair Map",
    "Sci-Fi": "Orbit Android Nebula Colony Signal Eclipse Replica Starship Quantum Horizon",
    "Children": "Puppy Treehouse Wizardling Birthday Kite Puddle Bicycle Sandcastle Pony Lantern",
    "Animation": "Robot Squirrel Dragonling Toymaker Cloud Penguin Teapot Firefly Comet Mouse",
    "Fantasy": "Dragon Sorceress Kingdom Amulet Prophecy Enchantment Unicorn Throne Spell Rune",
    "Mystery": "Riddle Manor Cipher Disappearance Clue Inheritance Séance Key Portrait Staircase",
    "Musical": "Melody Chorus Cabaret Rhapsody Encore Ballroom Tango Overture Songbird Footlights",
    "War": "Battalion Trench Armistice Regiment Convoy Frontline Bunker Squadron Ceasefire Medal",
    "Western": "Sheriff Canyon Stagecoach Outlaw Saddle Showdown Prairie Bounty Saloon Rider",
    "Film-Noir": "Shadow Dame Cigarette Alley Blackmail Nightclub Trench Widow Fedora Wire",
}

PLACES = """
    Aberdeen Alexandria Antwerp Bogotá Bombay Bristol Bergen Cairo Calais Córdoba Dakota
    Dresden Dublin Galway Genoa Hanoi Havana Istanbul Kraków Kyoto Lisbon Málaga Marseille Memphis
    Mombasa Montréal Naples Odessa Oslo Palermo Prague Québec Reykjavík Rotterdam Samarkand
    Santiago Shanghai Tangier Tennessee Trieste Tunis Valparaíso Vienna Vladivostok Warsaw Zürich
"""

PATTERNS = (
    "{adjective} {noun}",
    "The {adjective} {noun}",
    "{noun} of {place}",
    "The {noun} from {place}",
    "{a_noun} in {place}",
    "{adjective} {noun} in {place}",
    "The {adjective} {noun} of {place}",
)


# Nouns that end in s, but are not plurals.
SINGULAR = {"Compass"}


def add_article(noun: str) -> str:
    """Return the noun with its article, such as `An Orchard` or `A Key`; plurals get no article."""
    if noun.endswith("s") and noun not in SINGULAR:
        return noun
    begins_with_vowel = noun[0] in "AEIOU" and noun != "Unicorn"
    return f"{'An' if begins_with_vowel else 'A'} {noun}"


def make_titles(rng: np.random.Generator, genres: Sequence[str]) -> list[str]:
    """Return a unique title for each movie.

    If several movies draw the same title, a number is appended for all but the first.

    genres: the first genre of each movie.
    """
    adjectives, places = ADJECTIVES.split(), PLACES.split()
    title_counts: Counter[str] = Counter()
    titles = []
    for genre, draws in zip(genres, rng.integers(0, 2**31, (len(genres), 4)), strict=True):
        nouns = NOUNS[genre].split()
        noun = nouns[draws[2] % len(nouns)]
        title = PATTERNS[draws[0] % len(PATTERNS)].format(
            adjective=adjectives[draws[1] % len(adjectives)],
            noun=noun,
            a_noun=add_article(noun),
            place=places[draws[3] % len(places)],
        )
        title_counts[title] += 1
        titles.append(title if title_counts[title] == 1 else f"{title} {title_counts[title]}")
    return titles
