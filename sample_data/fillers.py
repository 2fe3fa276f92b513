"""Sentences that carry no figures: they make a text longer, and some of them are translated.

`SHARED`, `PRODUCT_ONLY` and `VIDEO_ONLY` are (English, German, Spanish); `LONG` is English only and
is used in texts that are never translated.
"""

SHARED = (
    ("{S} is ideal for {group}.", "{S} ist ideal für {group}.", "{S} es ideal para {group}."),
    (
        "The idea goes back to {month}.",
        "Die Idee stammt aus dem {month}.",
        "La idea viene de {month}.",
    ),
    (
        "The team in {city} answered our questions.",
        "Das Team in {city} hat unsere Fragen beantwortet.",
        "El equipo de {city} respondió a nuestras preguntas.",
    ),
    (
        "{part} works without trouble.",
        "{part} funktioniert ohne Probleme.",
        "{part} funciona sin problemas.",
    ),
    (
        "{part} convinced us at once.",
        "{part} hat uns sofort überzeugt.",
        "{part} nos convenció enseguida.",
    ),
    (
        "{part} could be a little better.",
        "{part} könnte etwas besser sein.",
        "{part} podría ser algo mejor.",
    ),
    (
        "There is a short guide for {group}.",
        "Es gibt eine kurze Anleitung für {group}.",
        "Hay una guía breve para {group}.",
    ),
    (
        "Our readers in {city} like the idea.",
        "Unsere Leser in {city} mögen die Idee.",
        "A nuestros lectores de {city} les gusta la idea.",
    ),
    (
        "A new version is planned for {month}.",
        "Eine neue Version ist für {month} geplant.",
        "Hay una nueva versión prevista para {month}.",
    ),
    (
        "In {month} we tested every day.",
        "Im {month} haben wir jeden Tag getestet.",
        "En {month} hicimos pruebas todos los días.",
    ),
    (
        "A friend from {city} gave us the tip.",
        "Ein Freund aus {city} gab uns den Tipp.",
        "Un amigo de {city} nos dio la pista.",
    ),
    (
        "Please send questions to the office in {city}.",
        "Fragen bitte an das Büro in {city} senden.",
        "Envíe sus preguntas a la oficina de {city}.",
    ),
    (
        "{S} needs very little time.",
        "{S} braucht sehr wenig Zeit.",
        "{S} necesita muy poco tiempo.",
    ),
    (
        "On {weekday} we will know more.",
        "Am {weekday} wissen wir mehr.",
        "El {weekday} sabremos más.",
    ),
)
PRODUCT_ONLY = (
    ("{S} comes in {colour}.", "{S} kommt in {colour}.", "{S} viene en {colour}."),
    ("{S} was made in {city}.", "{S} wurde in {city} gemacht.", "{S} se hizo en {city}."),
    (
        "Delivery starts on {weekday}.",
        "Die Lieferung beginnt am {weekday}.",
        "La entrega empieza el {weekday}.",
    ),
    (
        "Spare parts are easy to find in {city}.",
        "Ersatzteile sind in {city} leicht zu finden.",
        "Los repuestos son fáciles de encontrar en {city}.",
    ),
    (
        "The colour {colour} is sold out in {city}.",
        "Die Farbe {colour} ist in {city} ausverkauft.",
        "El color {colour} está agotado en {city}.",
    ),
    (
        "Nothing broke during the test in {month}.",
        "Beim Test im {month} ging nichts kaputt.",
        "Nada se rompió durante la prueba de {month}.",
    ),
    (
        "The first batch went to {group} in {city}.",
        "Die erste Lieferung ging an {group} in {city}.",
        "El primer lote fue para {group} de {city}.",
    ),
    (
        "The box is made of paper.",
        "Die Schachtel besteht aus Papier.",
        "La caja es de papel.",
    ),
)
VIDEO_ONLY = (
    (
        "The film was shot in {city}.",
        "Der Film wurde in {city} gedreht.",
        "La película se rodó en {city}.",
    ),
    (
        "We plan a second part for {group}.",
        "Wir planen einen zweiten Teil für {group}.",
        "Preparamos una segunda parte para {group}.",
    ),
    (
        "The host comes from {city}.",
        "Der Moderator kommt aus {city}.",
        "El presentador viene de {city}.",
    ),
    (
        "The clip goes online on {weekday}.",
        "Der Clip geht am {weekday} online.",
        "El clip se publica el {weekday}.",
    ),
)
LONG = (
    "We asked around among {group} in {city}, and most of them had a clear opinion.",
    "Nobody in the office expected much when the parcel arrived on a rainy {weekday}.",
    "After a while {part} became the thing that people talked about first.",
    "The story behind it began in {city}, in a small room above a bakery.",
    "If you ask {group}, they will tell you to take your time and read the notes.",
    "Some of our readers wrote in to say that {part} reminded them of older days.",
    "There was a long break in {month}, because half of the team was ill.",
    "What we liked most was the calm way in which everything comes together.",
    "It would be easy to complain about {part}, but that would miss the point.",
    "The people in {city} keep a small archive with drawings and letters.",
    "Anyone who has tried something similar in {month} will know the feeling.",
    "We spoke with {group} and with a teacher who has followed the work for years.",
    "Until {month} not much had happened, at least not in public.",
    "The mood in {city} was friendly, although the weather was not on our side.",
    "A few details are still open, and we will write about them on another day.",
    "By the end of the day even the quiet members of the group had something to say.",
    "Our photographer preferred the early hours, when the streets were still empty.",
    "It is a modest idea, carried out with care and without any loud promises.",
    "The notes that we took on {weekday} fill most of a thick paper book.",
    "Others have tried the same thing before, and they gave up after a short time.",
    "In the evening we sat together and compared what each of us had seen.",
    "For {group} there is one more reason to be patient until {month}.",
    "The office in {city} sent us a friendly letter with a list of small changes.",
    "You can hear the difference best when the windows are closed.",
    "Little things matter here, and {part} is a good example of that.",
    "We kept a list of everything that went wrong, and it stayed very short.",
)
