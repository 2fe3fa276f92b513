"""The words of the made-up catalogue: categories, facts, and sentences in three languages.

Data only. Every sentence is (English, German, Spanish) with the same slots, so that a text and
its translations can be built side by side. `{S}` is the subject (a pronoun or the full name),
`{part}` a part of the thing, the other slots are named in `SLOTS`.
"""

LANGS = ("en", "de", "es")

# English noun: (German noun, gender, Spanish noun, gender)
PRODUCTS = {
    "kettle": ("Wasserkocher", "m", "hervidor", "m"),
    "lamp": ("Lampe", "f", "lámpara", "f"),
    "backpack": ("Rucksack", "m", "mochila", "f"),
    "toaster": ("Toaster", "m", "tostadora", "f"),
    "blender": ("Mixer", "m", "batidora", "f"),
    "tent": ("Zelt", "n", "tienda", "f"),
    "radio": ("Radio", "n", "radio", "f"),
    "speaker": ("Lautsprecher", "m", "altavoz", "m"),
    "drill": ("Bohrer", "m", "taladro", "m"),
    "clock": ("Uhr", "f", "reloj", "m"),
    "fan": ("Ventilator", "m", "ventilador", "m"),
    "printer": ("Drucker", "m", "impresora", "f"),
    "camera": ("Kamera", "f", "cámara", "f"),
    "keyboard": ("Tastatur", "f", "teclado", "m"),
    "suitcase": ("Koffer", "m", "maleta", "f"),
    "chair": ("Stuhl", "m", "silla", "f"),
    "desk": ("Tisch", "m", "mesa", "f"),
    "grill": ("Grill", "m", "parrilla", "f"),
    "stove": ("Kocher", "m", "hornillo", "m"),
    "heater": ("Heizgerät", "n", "calefactor", "m"),
}
VIDEOS = {
    "hike": ("Wanderung", "f", "caminata", "f"),
    "tour": ("Tour", "f", "visita", "f"),
    "recipe": ("Rezept", "n", "receta", "f"),
    "repair": ("Reparatur", "f", "reparación", "f"),
    "workout": ("Training", "n", "entrenamiento", "m"),
    "project": ("Projekt", "n", "proyecto", "m"),
    "race": ("Rennen", "n", "carrera", "f"),
    "dance": ("Tanz", "m", "baile", "m"),
}

# fact: (verbs per language, unit, smallest, largest, decimals)
FACTS = {
    "price": (("costs", "kostet", "cuesta"), "EUR", 9, 1990, 0),
    "weight": (("weighs", "wiegt", "pesa"), "kg", 0.2, 29.9, 1),
    "runtime": (("lasts", "hält", "aguanta"), "h", 2, 96, 0),
    "capacity": (("holds", "fasst", "admite"), "l", 0.3, 59.9, 1),
    "power": (("draws", "verbraucht", "consume"), "W", 5, 2400, 0),
    "size": (("measures", "misst", "mide"), "cm", 8, 240, 0),
    "noise": (("reaches", "erreicht", "alcanza"), "dB", 20, 95, 0),
    "length": (("runs", "läuft", "dura"), "min", 2, 95, 0),
    "distance": (("covers", "umfasst", "recorre"), "km", 0.4, 79.9, 1),
    "climb": (("climbs", "steigt", "sube"), "m", 40, 1900, 0),
    "energy": (("burns", "verbrennt", "quema"), "kcal", 90, 980, 0),
    "amount": (("uses", "braucht", "usa"), "g", 50, 1500, 0),
}
PRODUCT_FACTS = ("price", "weight", "runtime", "capacity", "power", "size", "noise")
VIDEO_FACTS = ("length", "distance", "climb", "energy", "amount", "price")

# Openings name the subject and its first fact: {N} nominative, {A} accusative, {P} pronoun.
OPENINGS = (
    ("{N} {v1} {f1}.", "{N} {v1} {f1}.", "{N} {v1} {f1}."),
    (
        "{N} is new on our list and {v1} {f1}.",
        "{N} ist neu auf unserer Liste und {v1} {f1}.",
        "{N} acaba de llegar a nuestra lista y {v1} {f1}.",
    ),
    (
        "This week we look at {A}. {P} {v1} {f1}.",
        "Diese Woche sehen wir {A}. {P} {v1} {f1}.",
        "Esta semana vemos {A}. {P} {v1} {f1}.",
    ),
    (
        "Here are our notes on {A}. {P} {v1} {f1}.",
        "Hier sind unsere Notizen über {A}. {P} {v1} {f1}.",
        "Aquí están nuestras notas sobre {A}. {P} {v1} {f1}.",
    ),
    (
        "Say hello to {A}. {P} {v1} {f1}.",
        "Hier kommt {n}. {P} {v1} {f1}.",
        "Aquí llega {n}. {P} {v1} {f1}.",
    ),
)
MEASURES = (
    ("{P} {v2} {f2} and {v3} {f3}.", "{P} {v2} {f2} und {v3} {f3}.", "{P} {v2} {f2} y {v3} {f3}."),
    (
        "In our test {p} {v2} {f2}. {P} also {v3} {f3}.",
        "In unserem Test {v2} {p} {f2}. Außerdem {v3} {p} {f3}.",
        "En nuestra prueba {v2} {f2}. También {v3} {f3}.",
    ),
    (
        "On paper {p} {v2} {f2}, and {p} {v3} {f3}.",
        "Auf dem Papier {v2} {p} {f2}, und {p} {v3} {f3}.",
        "Sobre el papel {v2} {f2}, y {v3} {f3}.",
    ),
)

SLOTS = {
    "colour": (
        ("black", "Schwarz", "negro"),
        ("white", "Weiß", "blanco"),
        ("red", "Rot", "rojo"),
        ("blue", "Blau", "azul"),
        ("green", "Grün", "verde"),
        ("grey", "Grau", "gris"),
        ("yellow", "Gelb", "amarillo"),
    ),
    "city": (
        ("Lisbon", "Lissabon", "Lisboa"),
        ("Vienna", "Wien", "Viena"),
        ("Oslo", "Oslo", "Oslo"),
        ("Prague", "Prag", "Praga"),
        ("Milan", "Mailand", "Milán"),
        ("Ghent", "Gent", "Gante"),
        ("Zurich", "Zürich", "Zúrich"),
        ("Dublin", "Dublin", "Dublín"),
    ),
    "group": (
        ("beginners", "Anfänger", "principiantes"),
        ("families", "Familien", "familias"),
        ("students", "Studenten", "estudiantes"),
        ("travellers", "Reisende", "viajeros"),
        ("clubs", "Vereine", "clubes"),
        ("schools", "Schulen", "escuelas"),
        ("neighbours", "Nachbarn", "vecinos"),
    ),
    "month": (
        ("January", "Januar", "enero"),
        ("March", "März", "marzo"),
        ("April", "April", "abril"),
        ("May", "Mai", "mayo"),
        ("July", "Juli", "julio"),
        ("September", "September", "septiembre"),
        ("October", "Oktober", "octubre"),
    ),
    "weekday": (
        ("Monday", "Montag", "lunes"),
        ("Tuesday", "Dienstag", "martes"),
        ("Thursday", "Donnerstag", "jueves"),
        ("Friday", "Freitag", "viernes"),
        ("Sunday", "Sonntag", "domingo"),
    ),
}
PRODUCT_PARTS = (
    ("the handle", "der Griff", "el mango"),
    ("the lid", "der Deckel", "la tapa"),
    ("the cable", "das Kabel", "el cable"),
    ("the switch", "der Schalter", "el interruptor"),
    ("the frame", "der Rahmen", "el marco"),
    ("the base", "der Sockel", "la base"),
)
VIDEO_PARTS = (
    ("the sound", "der Ton", "el sonido"),
    ("the picture", "das Bild", "la imagen"),
    ("the music", "die Musik", "la música"),
    ("the light", "das Licht", "la luz"),
    ("the voice", "die Stimme", "la voz"),
)
