"""Scenes of ``demo_retrieval``: made-up facts about one thing, one of which the cue asks for.

The first line of a scene is the opening and the second one comes between the facts and the cue. Every
other line is ``fact | cue``: ``<list>`` in the fact is its value, drawn from ``VALUES``, and the value
follows the cue. ``{name}`` is a first name, the same in the whole scene. Nothing in a scene can be
known beforehand.
"""

NAMES = """
    Anna; Mary; Julia; Sarah; Emma; Laura; Helen; Alice; Nora; Clara; Tom; Peter; David; Paul; James;
    Robert; Daniel; Mark; Oscar; Simon; Henry; Victor; Martin; Frank
"""

VALUES: dict[str, str] = {
    "code": """
        318; 725; 462; 907; 153; 684; 239; 571; 846; 790; 612; 435; 268; 983; 547; 174""",
    "colour": "red; blue; green; yellow; black; white; brown; pink; purple; orange; grey",
    "person": """
        Boris; Ingrid; Olga; Pedro; Carmen; Felix; Gustav; Miriam; Otto; Sofia; Yusuf; Nadia; Rufus;
        Hilda; Conrad; Leila""",
    "town": """
        Lisbon; Oslo; Vienna; Cairo; Dublin; Madrid; Prague; Athens; Boston; Chicago; Berlin; Warsaw;
        Naples; Geneva""",
    "day": "Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday",
    "month": "January; February; March; April; June; July; August; September; October; November",
    "animal": "parrot; snake; goat; rabbit; pony; monkey; turtle; lizard; hamster; goose; fox; donkey",
    "food": "cheese; honey; fish; rice; mushrooms; pancakes; sausages; beans; chocolate; apples; soup",
    "place": "kitchen; attic; cellar; garage; barn; chapel; library; stable; bakery; tower; greenhouse",
    "tool": "hammer; lamp; rope; ladder; shovel; knife; mirror; whistle; compass; bucket; blanket",
    "music": "violin; trumpet; flute; piano; guitar; harp; drum; cello; banjo; organ",
    "job": "baker; dentist; pilot; butcher; tailor; lawyer; painter; carpenter; nurse; farmer; barber",
    "goods": "coffee; cotton; coal; sugar; wool; salt; tea; wood; glass; paper; tobacco; copper; wine",
    "metal": "iron; silver; copper; leather; glass; gold; stone; steel; clay; oak; brass; tin",
    "word": """
        Falcon; Tiger; Shadow; Thunder; Raven; Cobra; Diamond; Phantom; Rocket; Eagle; Dragon; Comet""",
}

SCENES = """
{name} has to remember a lot for the secret mission.
All of this must be learned by heart, and then the paper must be burned.
The code of the safe is <code>. | To open the safe, {name} has to type the code
The password is "<word>". | When the guard asks for the password, the right answer is "
The contact in the hotel is called <person>. | In the hotel {name} has to meet someone called
The money is hidden in the <place>. | {name} will find the money in the
The car in front of the house is <colour>. | {name} must get into a car that is

A new neighbour called {name} has moved in.
The people in our street have already been there for coffee.
The new neighbour works as a <job>. | {name} makes a living as a
The furniture had to be brought from <town>. | Before this summer {name} lived in
The little daughter is called <person>. | The only child of {name} is called
There is a <animal> in the garden. | {name} does not have a cat or a dog, but a
The front door is <colour> now. | {name} likes doors that are

{name} is the captain of an old ship.
The ship has been at sea for two weeks now.
In the hold there is nothing but <goods>. | The men on the ship are tired of carrying
The ship is sailing to <town>. | In three days {name} and the ship will arrive in
The cook on board is called <person>. | If the sailors are hungry, they go to see
On the captain's shoulder sits a <animal>. | The whole crew loves the captain's
The sails of the ship are <colour>. | From far away you can see that the sails are

There is a small village where my friend {name} grew up.
It has one street, one church and no railway station.
The village is famous for its <food>. | Visitors come to the village to buy
The mayor of the village is called <person>. | At the last election everyone voted for
Market day in the village is <day>. | The farmers bring their animals to the market every
The roofs of the houses are <colour>. | From the hill you see a lot of houses with roofs that are
The big feast is held in <month>. | People come home for the big feast in

{name} spent a night in a strange hotel.
At midnight there was a fire alarm, and everybody ran outside.
The number of the room was <code>. | When it was over, {name} went back to room
The person at the desk was called <person>. | The key was handed out by someone called
The carpets in the hotel were <colour>. | When {name} looked down, the carpet was
For breakfast there was nothing but <food>. | In the morning the guests had to eat
In the hall stood a stuffed <animal>. | The children were afraid of the stuffed

{name} is going to be married, and everything has been planned.
Nobody knows yet whether it is going to rain.
The wedding will be on a <day>. | The guests will get up early on
They are going to celebrate in an old <place>. | After the church the guests will walk to the
The honeymoon will be in <town>. | The next morning the two will travel to
One of the guests will play the <music>. | The couple will dance while someone plays the
The flowers on the tables will be <colour>. | A friend has ordered flowers that are

The new school of music is run by {name}.
Most of the pupils are between six and sixteen years old.
The favourite instrument of the pupils is the <music>. | Most of the pupils want to learn to play the
The teacher of the small children is called <person>. | The six-year-olds are taught by
The lessons are held every <day>. | The pupils come to the school every
The great concert is in <month>. | All the parents come to the great concert in
The door has the code <code>. | To get into the school, the pupils have to type

{name} was lost in the mountains for three days.
The newspapers wrote about it for weeks.
The only tool in the bag was a <tool>. | The bag was empty except for a
There was nothing left to eat but <food>. | For three days {name} ate nothing but
The dog that came along was called <person>. | At night {name} was kept warm by a dog called
The coat that was seen from the plane was <colour>. | The pilot saw somebody in a coat that was
It happened in <month>. | In that region it can be very cold in

My cousin {name} has opened a shop in the old town.
The shop is small, but it is always full of people.
In the shop you can buy nothing but <goods>. | Whoever goes to the shop comes out with a bag of
The shop is closed on <day>. | If you want to buy something, do not come on
It is next door to the <place>. | The shop is easy to find if you know the
The helper in the shop is called <person>. | When my cousin is ill, the shop is left to
The telephone number is <code>. | If you want to call the shop, dial

Nobody knows who stole the painting, but the police have some facts about the thief.
A photograph of {name} was shown on television.
The thief comes from <town>. | The police are looking for someone who was born in
The thief once worked as a <job>. | Before the first crime the thief earned money as a
The thief left a <tool> behind. | At the museum the police found a
The scarf of the thief was <colour>. | A witness saw someone in a scarf that was
The friends of the thief call the thief "<word>". | In the letters the thief signs with the name "

The old circus of {name} has come to town.
There are two shows a day, and children pay half.
The star of the show is a dancing <animal>. | The children clap their hands when they see the
The clown is called <person>. | Everybody laughs about the clown, whose name is
The tent is <colour>. | You can find the circus easily, because the tent is
After the show they will go on to <town>. | The next week the circus will be in
At the end someone plays the <music>. | Before the lights go out, you can hear a

Grandfather has left a letter for {name} about the treasure.
The letter was found under the floor, sixty years later.
The treasure is buried under the <place>. | To find the treasure, {name} must dig under the
The box is made of <metal>. | The treasure is in a box that is made of
The lock on the box opens with <code>. | To open the lock, {name} must choose the number
You will need a <tool>. | Before you start, you must buy a
Do not tell anything to <person>. | There is one person who must never hear about it, and that is
"""
