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


# These end like a plural, and are none.
SINGULAR = {"Compass"}


def with_article(noun: str) -> str:
    """`An Orchard`, `A Key`, and `Tenants` as they are."""
    if noun.endswith("s") and noun not in SINGULAR:
        return noun
    return f"{'An' if noun[0] in 'AEIOU' and noun != 'Unicorn' else 'A'} {noun}"


def make_titles(seed: int, genres: Sequence[str]) -> list[str]:
    """A unique title for each movie of these genres: the second of the same name gets a number."""
    rng = np.random.default_rng([seed, 4])
    adjectives, places = ADJECTIVES.split(), PLACES.split()
    seen: Counter[str] = Counter()
    titles = []
    for genre, draws in zip(genres, rng.integers(0, 2**31, (len(genres), 4)), strict=True):
        pattern, adjective, noun, place = (
            words[draw % len(words)]
            for words, draw in zip(
                (PATTERNS, adjectives, NOUNS[genre].split(), places), draws, strict=True
            )
        )
        title = pattern.format(
            adjective=adjective, noun=noun, a_noun=with_article(noun), place=place
        )
        seen[title] += 1
        titles.append(title if seen[title] == 1 else f"{title} {seen[title]}")
    return titles
