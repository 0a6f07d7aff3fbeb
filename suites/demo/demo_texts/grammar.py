"""Patterns and word lists of ``demo_grammar``.

``{good|bad}`` marks the place where the two sentences of a pair differ; ``<name>`` is filled from
the list ``name`` in ``WORDS``, once per pair, the same word in both sentences. An entry of a list may
hold several forms, split by ``/``; ``<name.2>`` is the second form of the entry that ``<name>`` took.
"""

WORDS: dict[str, str] = {
    "noun": """
        teacher/teachers; doctor/doctors; farmer/farmers; student/students; singer/singers;
        neighbour/neighbours; driver/drivers; child/children; woman/women; man/men;
        nurse/nurses; lawyer/lawyers; painter/painters; waiter/waiters; guest/guests;
        dancer/dancers; baker/bakers; writer/writers; boy/boys; girl/girls""",
    "other": """
        manager/managers; friend/friends; customer/customers; visitor/visitors; parent/parents;
        cousin/cousins; actor/actors; sailor/sailors; worker/workers; uncle/uncles; lady/ladies;
        king/kings; guard/guards; judge/judges""",
    "thing": """
        key/keys; picture/pictures; letter/letters; box/boxes; lamp/lamps; book/books; cup/cups;
        knife/knives; bottle/bottles; plate/plates; coat/coats; ticket/tickets; basket/baskets;
        toy/toys; map/maps; chair/chairs; shoe/shoes; shirt/shirts; clock/clocks; mirror/mirrors""",
    "place": """
        kitchen; garden; office; school; museum; hotel; market; hospital; library; station""",
    "near": """
        door/doors; window/windows; table/tables; tree/trees; car/cars; shelf/shelves; bed/beds;
        wall/walls; house/houses; tower/towers""",
    "adj": """
        happy; tired; angry; hungry; busy; late; kind; sick; famous; quiet; lonely; proud""",
    "tadj": """
        old; new; broken; dirty; heavy; small; expensive; wet; clean; beautiful""",
    "verb": """
        sing/sings/sang/singing; work/works/worked/working; sleep/sleeps/slept/sleeping;
        laugh/laughs/laughed/laughing; run/runs/ran/running;
        travel/travels/travelled/travelling; cook/cooks/cooked/cooking;
        dance/dances/danced/dancing; swim/swims/swam/swimming; smile/smiles/smiled/smiling;
        talk/talks/talked/talking; wait/waits/waited/waiting; write/writes/wrote/writing;
        read/reads/read/reading; drive/drives/drove/driving; paint/paints/painted/painting""",
    "female": "mother; sister; queen; actress; girl; woman; grandmother; aunt; daughter; waitress",
    "male": "father; brother; king; actor; boy; man; grandfather; uncle; son; waiter",
    "her": "Anna; Mary; Julia; Sarah; Emma; Laura; Helen; Alice",
    "him": "Tom; Peter; David; Paul; James; Robert; Daniel; Mark",
    "reflex": "hurt; saw; blamed; admired; hid; washed; embarrassed; taught; dressed; surprised",
    "vowel": """
        apple; orange; egg; umbrella; onion; elephant; island; engine; octopus; eagle; oven;
        airplane; arrow; envelope; ant""",
    "conson": """
        banana; potato; knife; bicycle; carrot; tiger; river; machine; dolphin; hawk; table;
        rocket; sword; letter; spider""",
    "count": "friends; books; cars; houses; ideas; children; coins; trees; problems; tickets",
    "mass": "water; money; milk; sugar; time; rice; snow; furniture; luggage; advice",
    "past": """
        bought a new car/buys a new car; wrote a long letter/writes a long letter;
        lost the keys/loses the keys; went to the beach/goes to the beach;
        met an old friend/meets an old friend; broke a window/breaks a window;
        won the race/wins the race; saw a bear/sees a bear;
        caught a big fish/catches a big fish; built a small boat/builds a small boat;
        sold the house/sells the house; ate at the new restaurant/eats at the new restaurant""",
    "compar": """
        tall/taller/tallest; fast/faster/fastest; old/older/oldest; strong/stronger/strongest;
        rich/richer/richest; small/smaller/smallest; young/younger/youngest;
        quick/quicker/quickest; kind/kinder/kindest; short/shorter/shortest""",
    "num": "two; three; four; five; six; seven; ten; twelve",
    "animal": """
        dog/dogs; cat/cats; horse/horses; cow/cows; bird/birds; goat/goats; duck/ducks;
        pig/pigs; rabbit/rabbits; monkey/monkeys; mouse/mice; wolf/wolves; goose/geese""",
    "size": "big; small; huge; tiny; large; little",
    "colour": "red; blue; green; yellow; brown; white; black",
    "adverb": "always; never; often; usually; sometimes; rarely",
    "drink": """
        drinks/coffee in the morning; reads/the newspaper at breakfast;
        walks/the dog after dinner; eats/fish on Friday; visits/old friends on Sunday;
        washes/the dishes at night; plays/tennis on Saturday; takes/the bus to work;
        forgets/the keys at home; wears/a hat in winter""",
}

PARADIGMS: dict[str, tuple[str, ...]] = {
    "subject and verb": (
        "The <noun.2> {are|is} <adj> today.",
        "The <noun> {is|are} very <adj>.",
        "The <noun.2> in the <place> {have|has} a new car.",
        "The <noun> from the <place> {has|have} a large family.",
        "The <noun> {was|were} <adj> all day.",
        "The <noun.2> {were|was} <adj> after the long trip.",
    ),
    "subject and verb, noun between": (
        "The <thing.2> on the <near> {are|is} <tadj>.",
        "The <thing> near the <near.2> {is|are} <tadj>.",
        "The <thing.2> behind the <near> {were|was} <tadj>.",
        "The <thing> under the <near.2> {was|were} <tadj>.",
        "The <thing.2> for the <other> {have|has} arrived.",
        "The <thing> from the <other.2> {has|have} arrived.",
    ),
    "subject and verb, clause between": (
        "The <noun> who likes the <other.2> {<verb.2>|<verb>} every day.",
        "The <noun.2> who know the <other> {<verb>|<verb.2>} every day.",
        "The <noun> that the <other.2> met {is|are} <adj>.",
        "The <noun.2> that the <other> met {are|is} <adj>.",
    ),
    "main verb": (
        "Every morning the <noun> {<verb.2>|<verb>} in the <place>.",
        "Every evening the <noun.2> {<verb>|<verb.2>} in the <place>.",
        "My <other> {<verb.2>|<verb>} with the <noun.2> on Sunday.",
        "These <noun.2> {<verb>|<verb.2>} with my <other> on Monday.",
    ),
    "reflexive, gender": (
        "The <female> <reflex> {herself|himself} yesterday.",
        "The <male> <reflex> {himself|herself} yesterday.",
        "<her> bought a <colour> <thing> for {herself|himself}.",
        "<him> bought a <colour> <thing> for {himself|herself}.",
    ),
    "reflexive, number": (
        "The <noun.2> <reflex> {themselves|himself}.",
        "The <male> <reflex> {himself|themselves} in the <place>.",
        "The <female> <reflex> {herself|themselves} in the <place>.",
        "The <noun.2> in the <place> <reflex> {themselves|herself}.",
    ),
    "negative polarity": (
        "{Nobody|Somebody} in the <place> has ever seen the <noun>.",
        "{No|Every} <noun> has ever been to the <place>.",
        "The <noun> {doesn't|does} know any of the <other.2>.",
        "{Nobody|Everybody} said anything to the <other> in the <place>.",
        "The <noun> {has not|has now} met the <other> yet.",
    ),
    "irregular past": (
        "The <noun> {ran|runned} to the <place>.",
        "The <noun> {taught|teached} the <other.2> a song.",
        "The <noun> {caught|catched} the ball in the <place>.",
        "The <noun> {bought|buyed} a <thing> in the <place>.",
        "The <noun> {found|finded} the <thing> near the <near>.",
        "The <noun> {brought|bringed} the <thing> to the <other>.",
        "The <noun> {drew|drawed} a picture of the <animal>.",
        "The <noun> {knew|knowed} the way to the <place>.",
        "The <noun> {threw|throwed} the <thing> out of the window.",
        "The <noun> {went|goed} to the <place> with the <other>.",
    ),
    "participle": (
        "The <noun> has {written|wrote} to the <other>.",
        "The <noun.2> have {taken|took} the <thing> to the <place>.",
        "The <noun> has already {seen|saw} the <thing>.",
        "The <thing> was {stolen|stole} from the <place>.",
        "The <noun> had {forgotten|forgot} the name of the <other>.",
        "The <noun.2> have {gone|went} to the <place>.",
        "The <noun> has {drunk|drank} all the milk in the <place>.",
        "The <noun> had {driven|drove} the <other> to the <place>.",
        "The <thing> was {given|gave} to the <noun>.",
        "The <noun> has {chosen|chose} a <colour> <thing>.",
    ),
    "article": (
        "The <noun> saw {an|a} <vowel> in the picture.",
        "The <noun> saw {a|an} <conson> in the picture.",
        "There is {an|a} <vowel> near the <near>.",
        "There is {a|an} <conson> near the <near>.",
    ),
    "determiner and noun": (
        "The <noun> wants to keep {these|this} <thing.2>.",
        "The <noun> wants to keep {this|these} <thing>.",
        "The <noun> took {that|those} <thing> to the <place>.",
        "The <noun> took {those|that} <thing.2> to the <place>.",
        "There were <num> {<animal.2>|<animal>} in the <place>.",
    ),
    "adverb order": (
        "The <noun> {<adverb> <drink>|<drink> <adverb>} <drink.2>.",
        "The <noun> has {never met|met never} the <other>.",
        "The <noun> {really likes|likes really} the <animal.2>.",
    ),
    "adjective order": (
        "The <noun> has a {<size> <colour>|<colour> <size>} <thing>.",
        "We saw a {<size> <colour>|<colour> <size>} <animal> near the <place>.",
        "The <thing> is {too heavy|heavy too} for the <noun>.",
        "The <thing> is not {big enough|enough big} for the <noun>.",
    ),
    "modal verb": (
        "The <noun> can {<verb>|<verb.2>} very well.",
        "The <noun> must {<verb>|<verb.4>} in the <place>.",
        "The <noun> should not {<verb>|<verb.2>} in the <place>.",
        "The <noun> will {<verb>|<verb.4>} with the <other>.",
    ),
    "tense": (
        "Last week the <noun> {<past>|<past.2>}.",
        "Two years ago the <noun> {<past>|<past.2>}.",
        "The <noun> is {<verb.4>|<verb>} in the <place> now.",
        "Tomorrow the <noun> {will|did} <verb> in the <place>.",
    ),
    "pronoun case": (
        "The <noun> gave {him|he} a <thing>.",
        "{They|Them} saw the <noun> in the <place>.",
        "{She|Her} gave the <noun> a <colour> <thing>.",
        "The <noun> talked to {us|we} about the <animal.2>.",
        "{He|Him} and the <noun> went to the <place>.",
        "The <noun> came to the <place> with {them|they}.",
        "{We|Us} bought a <thing> for the <other>.",
        "The <noun> told {me|I} a story about the <animal>.",
    ),
    "comparison": (
        "The <noun> is {<compar.2>|<compar>} than the <other>.",
        "The <noun> is the {<compar.3>|<compar.2>} of all the people in the <place>.",
        "The <noun> is as {<compar>|<compar.2>} as the <other>.",
        "This <animal> is {<compar.2>|more <compar.2>} than that one.",
        "The <thing> was more expensive {than|as} the other <thing.2>.",
    ),
    "much and many": (
        "The <noun> has too {many|much} <count>.",
        "The <noun> has too {much|many} <mass>.",
        "How {many|much} <count> does the <noun> need?",
        "How {much|many} <mass> does the <noun> need?",
    ),
    "preposition": (
        "The <noun> is interested {in|at} old <animal.2>.",
        "The <noun> depends {on|of} the <other>.",
        "The <noun> is afraid {of|from} the <animal>.",
        "The <noun> waited {for|at} a letter from the <other>.",
        "The <noun> listened {to|at} the <other> in the <place>.",
        "The <noun> was born {in|on} the year 1980.",
        "The <noun> is good {at|in} playing chess with the <other>.",
        "The <noun> will meet the <other> {on|in} Monday.",
    ),
    "verb complement": (
        "The <noun> enjoys {<verb.4>|to <verb>} in the <place>.",
        "The <noun> wants {to <verb>|<verb.4>} in the <place>.",
        "The <noun> decided {to <verb>|<verb.4>} with the <other>.",
        "The <noun> finished {<verb.4>|to <verb>} before the <other> came.",
        "The <noun> made the <other> {<verb>|to <verb>} in the <place>.",
    ),
    "relative pronoun": (
        "The <noun> {who|which} lives near the <place> is <adj>.",
        "The <thing> {which|who} lies on the <near> is <tadj>.",
        "The <noun> {whose|who} <thing> was lost is very <adj>.",
        "I know the <noun> {who|whose} works in the <place>.",
    ),
    "there is, there are": (
        "There {are|is} <num> <thing.2> on the <near>.",
        "There {is|are} one <thing> near the <near>.",
        "There {were|was} many <animal.2> in the <place>.",
        "There {was|were} a <animal> behind the <near>.",
    ),
    "question and negation": (
        "Where {did the <noun> go|went the <noun>} after the visit to the <place>?",
        "Why {does|do} the <noun> <verb> in the <place>?",
        "The <noun> {does not|not does} like the <other>.",
        "What {is the <noun>|the <noun> is} doing in the <place>?",
        "Does the <noun> {<verb>|<verb.2>} in the <place>?",
        "The <noun.2> {don't|doesn't} like the <animal.2>.",
    ),
    "passive": (
        "The <thing> was {broken|broke} by the <noun>.",
        "The <noun> was {seen|saw} by the <other> near the <near>.",
        "The <thing.2> were {taken|taking} by the <noun>.",
        "The <animal> was {bitten|bite} by a snake in the <place>.",
        "The <thing> was found {by|from} the <noun> in the <place>.",
    ),
    "conjunction": (
        "Neither the <noun> {nor|or} the <other> came to the <place>.",
        "Either the <noun> {or|and} the <other> will <verb>.",
        "Both the <noun> {and|or} the <other> live near the <place>.",
        "The <noun> <verb.3> {because|because of} the <other> was <adj>.",
        "The <noun> stayed at home {although|despite} the <other> called.",
    ),
}
