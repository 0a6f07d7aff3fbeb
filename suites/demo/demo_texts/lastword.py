"""Short texts of ``demo_lastword``, whose last word follows from the whole text.

A text has slots: ``{0}`` is the last word, ``{1}`` and ``{2}`` are details, and ``{her}``, ``{her2}``,
``{him}``, ``{him2}`` are first names. After its ``=`` come the fillings, ``last word/detail/…`` split
by ``;``. The last sentence alone leaves many words open; the sentences before it do not.
"""

HER = """
    Anna; Mary; Julia; Sarah; Emma; Laura; Helen; Alice; Nora; Clara; Ruth; Lily; Martha; Rosa;
    Irene; Grace; Susan; Vera; Jane; Diana
"""
HIM = """
    Tom; Peter; David; Paul; James; Robert; Daniel; Mark; Oscar; Simon; Henry; Victor; Leo; Martin;
    Frank; George; Arthur; Walter; Ben; Hugo
"""

TEXTS = """
{her} had always wanted to play the {0}. For years she saved {1}, and on her birthday she finally
walked into the music shop. An hour later she came out with a big smile and a brand new {0}.
    = violin/a few coins every week; guitar/all the tips from the cafe; piano/part of her small
    salary; trumpet/the money she got from her aunt; flute/what she earned by cleaning windows

The old {1} had a {0}, and everybody in the village was afraid of it. The postman threw the letters
over the fence and ran. He did not mind the rain or the snow, but he was terrified of that {0}.
    = dog/farmer; goose/widow; goat/miller; bull/butcher; rooster/shoemaker

"Where is my {0}?" asked {him}. {her} looked under the {1} and behind the {2}, but she found nothing
there. In the end he had to leave the house without his {0}.
    = hat/sofa/curtain; umbrella/stairs/door; scarf/bed/wardrobe; watch/cushions/books;
    wallet/newspaper/toaster

{him} wanted to become a {0}, although his father {1}. He studied every evening and passed every
exam. Ten years later the sign on his office showed that he really was a {0}.
    = doctor/wanted him to stay on the farm; lawyer/thought that it was a waste of time; dentist/had
    already found him a job at the mill; teacher/laughed at the idea; scientist/hoped that he would
    run the hotel

On Saturday {her} baked a {0} for the whole {1}. She put it on the window sill to cool and went to
{2}. When she came back, the plate was empty, and a boy with crumbs on his chin said he had not seen
any {0}.
    = cake/class/feed the hens; pie/choir/set the table; loaf/office/fetch the chairs;
    pizza/team/phone her mother; tart/family/change her dress

{him} was building a {0} in his garage. His neighbours {1} and said that it would never be finished.
But one spring morning the garage doors opened, and out came {him} with his {0}.
    = boat/shook their heads; car/laughed at him; plane/made jokes about it; canoe/complained of the
    noise; robot/did not believe him

The two brothers shared everything except one thing. {him} loved {0}, and {him2} could not stand
{1}. So when their mother asked what they wanted for dinner, it was {him} who shouted that he wanted
{0}.
    = fish/the smell of it; rice/anything white; soup/eating with a spoon; pasta/anything Italian;
    chicken/the taste of it

We were told that the {0} was haunted. {her} said she had seen {1} there at midnight. None of us
believed a word of it, but that night nobody wanted to be the first to go into the {0}.
    = castle/a man without a head; cellar/a pale woman in white; attic/a rocking chair moving by
    itself; forest/a light without a lamp; hotel/a child made of smoke

The queen had lost her {0}. She offered {1} to anyone who could find it. After three weeks a young
shepherd knocked at the gate of the palace, and in his hand he held the {0}.
    = ring/a bag of gold; crown/half of her land; necklace/a fine white horse; mirror/a house by the
    sea; bracelet/ten fat cows

{him} and {her} could not agree on the colour of the {2}. He wanted {1}, but she insisted on {0}. In
the end she bought the paint herself, and when he came home everything was {0}.
    = green/white/kitchen; blue/yellow/bedroom; red/brown/front door; pink/grey/bathroom;
    black/orange/fence

My grandmother was born in {0}, and she spoke of it every day. She remembered {1} and the songs her
mother sang. Last summer, when she turned eighty, we took her on one last trip to {0}.
    = Italy/the lemon trees; Ireland/the green hills; Poland/the deep snow; Spain/the hot evenings;
    Norway/the long winter nights

{her} had packed {1}, the map and the sandwiches. Only at the top of the mountain did she notice
that she had left the {0} at home. The view was wonderful, but it was no fun at all without the {0}.
    = camera/a rope; kite/the sun cream and the blanket; telescope/a compass and a torch; guitar/her
    raincoat; flag/the bottles of water

There was only one {0} left in the shop, and both women had seen it. {her} was faster and grabbed
it, but {her2} would not let go of {1}. They pulled and pulled until there was a loud noise, and
each held half of the {0}.
    = dress/the sleeve; skirt/the belt; coat/the collar; blanket/the corner; sweater/the other arm

Nobody in the office knew who had eaten the {0}. {him} blamed {her}, and {her} blamed {1}. Only the
cleaner, who had been there late at night, could say who had eaten the {0}.
    = chocolate/the new manager; sandwich/the man from the bank; cookies/the driver; yogurt/the
    visitors; apple/her own boss

{him} was the best {0} in the {1}, but he was also the laziest. When people asked him why he did not
work harder, he only shrugged. He said that one lazy day had never hurt a good {0}.
    = baker/street; carpenter/valley; tailor/town; painter/country; mechanic/district

The {1} told the children to stay away from the {0}. "It is deep and dangerous," she said. But the
afternoon was hot and long, and as soon as she had fallen asleep, they ran straight to the {0}.
    = river/nurse; lake/aunt; pond/old maid; pool/babysitter; well/grandmother

The detective looked at the {0} again. There was a tiny spot of {1} on it which no one else had
noticed. Now he knew that the murderer had touched the {0}.
    = knife/paint; lamp/wax; letter/ink; glass/lipstick; clock/grease

{her} has been afraid of {0} since she was {1}. Her husband tells her that they are harmless and
even useful. It does not help at all: she still screams whenever she sees {0}.
    = spiders/four years old; snakes/a little girl; mice/in the first grade; bats/a baby; bees/stung
    in the park

Every morning the old man fed the {0} in the {1}. When he was ill and stayed in bed for a week,
{him} from next door did it for him. The boy was proud that he was allowed to feed the {0}.
    = ducks/park; pigeons/square; swans/castle garden; cats/yard; horses/field

In {1} the whole town waited for the {0}. Shop windows were full of lights, and the children counted
the days. Then a storm came and the mayor had to announce, with tears in his eyes, that there would
be no {0}.
    = parade/March; circus/May; festival/late summer; market/December; concert/autumn

{him} bought an old {0} at a {1} for almost nothing. At home he opened it carefully and found a
bundle of banknotes inside. He never told the seller what had been hidden in the {0}.
    = suitcase/flea market; radio/garage sale; piano/school auction; clock/junk shop; desk/church
    sale

For her {1} birthday {her} got a {0} from her uncle. She called it Biscuit and took it with her
everywhere, even to bed. Her parents were not very happy about sharing the house with a {0}.
    = puppy/ninth; kitten/tenth; rabbit/sixth; parrot/twelfth; hamster/seventh

{him} asked the waiter for {0}, but the waiter brought him {1} instead. He sent it back, and this
time he got {2}. He stood up and said in a loud voice that all he wanted was {0}.
    = coffee/tea/hot milk; soup/a salad/a cold steak; water/wine/lemonade; beer/juice/a cocktail;
    bread/rice/some noodles

{her} could not find her {0} anywhere. She had looked in the {1}, in the {2} and even in the oven.
Then her little son began to laugh, put his hand under his pillow and pulled out her {0}.
    = keys/drawer/car; glasses/bathroom/bag; phone/garden/washing machine; purse/cellar/kitchen;
    passport/desk/suitcase

It was so {1} that the {0} would not start. {him} tried it again and again, and {her} pushed from
behind. After half an hour they gave up, called a taxi and left the {0}.
    = car/cold in the mountains; truck/wet that night; motorcycle/icy on Monday; bus/damp by the
    sea; van/foggy and cold

The {1} offered {him} a lot of money for the {0}. He needed the money, for the roof was leaking and
the stove was broken. But his father had left it to him, and he could not sell the {0}.
    = farm/banker; horse/stranger; painting/dealer; vineyard/baron; violin/collector

Every {1} {her} sent a {0} to her son in the army. His friends were jealous of him, because nobody
else got anything from home. On the day they let him go, he stayed at the camp until evening,
waiting for the last {0}.
    = letter/week; package/second Sunday; cake/month; postcard/Monday; pie/other Friday

The coach had told the boys to {1} before the {0}. They had stayed up all night instead, singing and
eating sweets. Nobody was surprised the next day when they lost the {0}.
    = game/sleep well; match/go to bed early; race/rest for a while; final/drink only water;
    tournament/be in bed by nine

{him} promised to give up {0} after the doctor had shown him {1}. He lasted for nine days. On the
tenth, his wife smelled something strange in the shed and found him there with a box of {0}.
    = cigars/a picture of his lungs; cigarettes/the results; chocolate/the number on the scale;
    sweets/the holes in his teeth; donuts/what his heart looked like

The {1} always sat on the same {0}, right beside the fountain. One morning a young couple was
already there. He stood in front of them for a while, coughed, and told them politely that this was
his {0}.
    = bench/old colonel; chair/retired teacher; swing/lonely poet; wall/French painter; step/street
    singer

{her} told {him} a secret about the {0}. She made him promise {1} not to tell anyone. But the very
next day all the people at the hairdresser were talking about the {0}.
    = wedding/with his hand on his heart; baby/three times; divorce/on the Bible; money/at the top
    of the tower; accident/in a low voice

The museum had a famous {0}, and thousands of people came to see it. One night a thief came in
through the {1}. In the morning the guard found an empty place where there had been the {0}.
    = statue/roof; painting/cellar; diamond/kitchen window; sword/air shaft; crown/back door

{him} thought that the {0} was empty, and so he {1}. There was a loud bang. He sat on the floor,
white as a sheet, with a hole in his hat, and swore that he would never again touch a {0}.
    = gun/pulled the trigger; rifle/cleaned it carelessly; pistol/pointed it at himself;
    cannon/climbed into it; revolver/looked into it

Our teacher said that a {0} can {1}. I did not believe her and looked it up in a book. The book said
the same, so now I am full of respect for the {0}.
    = camel/live for weeks without water; whale/hold its breath for an hour; snail/sleep for three
    years; cockroach/live without its head; horse/sleep standing up

{her} grew {0} behind the house. They were the biggest in the county, and {him}, who lived {1}, was
jealous of her. One morning she saw footprints in the soil, and someone had stolen all her {0}.
    = tomatoes/across the road; pumpkins/on the hill; roses/next door; melons/two houses away;
    cabbages/near the church

The rain had stopped, but the {0} was still wet. {him} {1} and did not pay attention. He slipped,
fell on his back and lay there for a while, looking up at the sky from the wet {0}.
    = grass/was chasing the ball; road/was riding his bike; roof/was fixing the chimney; deck/was
    pulling the rope; sidewalk/was running for the bus

The baby would not stop crying. {him} gave her {1}, {her} sang to her, and still she cried. Then the
{2} brought the little brown {0}, and all at once there was silence; she had only wanted her {0}.
    = bear/a bottle/neighbour; rabbit/a spoon/girl; dog/a warm blanket/nurse; monkey/his watch/aunt;
    duck/a rattle/grandfather

A sign at the gate said: "Beware of the {0}." {him} {1}, opened the gate and walked in. Two seconds
later he was running down the road as fast as he could, and behind him ran the {0}.
    = dog/did not believe it; bull/could not read; bear/thought it was a joke; lion/took no notice;
    goose/laughed out loud

The king wanted to know who was the wisest man in the land. {1} came to the court, and also a poor
{0}. The king asked each of them three questions, and the only one who could answer all of them was
the {0}.
    = farmer/Priests and professors; shepherd/Seven judges; fisherman/Rich merchants; monk/Lords and
    generals; miller/Doctors from five cities

{him} works in a bakery, and {her} works in a {0}. He gets up at three and goes to bed at {1}. They
only see each other on Sundays, because on all the other days she comes home late from the {0}.
    = hospital/seven; theater/eight; restaurant/half past six; factory/nine; bank/six

I did not want to buy the {0}. It was {1}, and I already had three of them at home. But the seller
was so friendly that an hour later I walked out of the shop with a {0}.
    = carpet/too big for my room; lamp/ugly; mirror/much too expensive; hat/bright purple;
    vase/slightly cracked

Before the {1} came, there was a tall {0} in the middle of the village. Children played around it,
and lovers met there in the evening. Now people only have old photographs to remember the {0}.
    = tree/road; tower/war; statue/new mayor; oak/railway; windmill/flood

The {0} was supposed to leave at {1}. At noon we were still sitting in the hall with our bags, and
nobody told us anything. Just as {her} began to unpack the food, a voice called us to the {0}.
    = train/eight; plane/seven in the morning; bus/nine; ferry/ten; ship/sunrise

{him} had never been on a {0} before. His hands were wet, and he {1}. {her}, who had done it a
hundred times, told him to sit up straight, hold on tight and trust the {0}.
    = horse/felt sick; motorcycle/could not breathe; camel/kept his eyes shut; bicycle/wanted to go
    home; sled/made a joke

The {1} on the first floor complained about the {0}. He wrote letters to the landlord, called the
police and banged on the ceiling. One day it was quiet, and after a week, strangely, he began to
miss the {0}.
    = music/old general; noise/student; piano/writer; dog/bachelor; drums/professor

The soup needed {0}, so {her} sent {him} to the shop. He came back with {1}, a newspaper and a new
football. He had thought of everything, it seemed, except the {0}.
    = salt/eggs; pepper/ice cream; onions/some candy; carrots/a cake; garlic/two magazines

{her} learned to {0} when she was {1}. Her sister tried it too, but she gave up after the first
lesson. To this day {her} is the only one in the family who knows how to {0}.
    = swim/five; drive/sixty; dance/already a grandmother; ski/three; cook/living in Paris

{him} met a {0} in the {1}. He was so surprised that he could not move, and for a minute they just
looked at each other. Afterwards nobody would believe that he had stood face to face with a {0}.
    = bear/forest; wolf/mountains; tiger/jungle; fox/city center; lion/desert

The {0} had been in the family for {1}. It was passed from mother to daughter, and each of them wore
it only on her wedding day. Now it was {her}'s turn, and with shaking fingers she put on the {0}.
    = dress/ninety years; ring/two centuries; necklace/five generations; veil/a hundred years;
    crown/longer than anyone knew

At school {him} was good at {0} and bad at everything else. His {1} told him that nobody could live
from that. Today he is rich and famous, and he owes it all to {0}.
    = football/uncle; music/parents; chess/headmaster; math/friends; tennis/grandfather

A small {1} stood on the hill, and in it lived a {0} who could tell the future. People came from far
away and brought him presents. One day a man in black came, and that was the one visit not foreseen
by the {0}.
    = monk/chapel; wizard/tower; shepherd/hut; priest/church; hermit/cabin

We had planned to spend our holiday at the {0}. Then {him} broke his leg, {her} {1}, and the car had
to be repaired. We stayed at home, closed our eyes and imagined that we were at the {0}.
    = beach/caught the flu; lake/lost her job; seaside/got a toothache; sea/missed her flight;
    farm/had to write a paper

The {1} hid the money in the {0}, because he thought that nobody would ever look there. But his wife
needed some space and cleaned the house. That evening she told him proudly that she had thrown away
the {0}.
    = mattress/miser; sofa/old smuggler; stove/bank robber; piano/gambler; clock/clerk

The doctor told {her} to take the {1} twice a day and to eat more {0}. She forgot the medicine after
a week. But she kept to the second piece of advice, since there was nothing she liked more than {0}.
    = pills/fruit; drops/fish; tablets/vegetables; syrup/meat; powder/cheese

{him} drew a {0} on the wall of the {1}. It looked so real that people stopped and stared at it. A
drunken man even took off his hat, bowed and began to talk to the {0}.
    = cat/bank; horse/station; door/prison; policeman/town hall; woman/factory

In the {1} you can rent a {0} for a few coins an hour. {her} and {him} wanted to try it. They paid,
they laughed, they got completely wet, and in the end they had to swim back without the {0}.
    = boat/harbour; canoe/village by the lake; raft/summer camp; kayak/bay; boat/old fishing town

{her} had read in the newspaper that {0} is good for the skin. So she put it on her face every night
before she went {1}. Her husband said nothing for a month, and then he asked her why the bed smelled
of {0}.
    = honey/to sleep; garlic/to bed; milk/upstairs; vinegar/to the bedroom; butter/to rest

Once upon a time a {0} and a {1} were friends. They lived in the same {2} and shared their food.
When the winter came, there was not enough for two, and the {1} said goodbye to the {0}.
    = fox/crow/hollow tree; mouse/frog/garden; wolf/raven/cave; cat/sparrow/barn;
    bear/squirrel/forest

The thieves came through the window and took {1}, the silver and the paintings. They did not see the
old {0} on the shelf. That was their mistake, for everything valuable that {him} owned was hidden
inside the {0}.
    = teapot/the television; vase/the carpets; book/the computer; jar/the jewels; doll/the
    candlesticks

All the guests at the party wore {1}, but {him} came as a {0}. Nobody had told him that the plan had
been changed. He stayed the whole evening, danced with everyone, and won a prize for being the only
{0}.
    = suits/pirate; black/clown; evening dress/cowboy; tuxedos/chicken; jackets and ties/ghost

{her} sat by the {0} and waited. {him} had promised to come at {1}. It was past midnight now, she
had eaten nothing, and she still did not take her eyes off the {0}.
    = window/six; door/eight; fire/dinner time; gate/noon; road/nine sharp

The {1} said that the {0} would be ready on Friday. On Friday he said Monday, and on Monday he said
Thursday. It was three months later that {him} was finally able to pick up his {0}.
    = suit/tailor; car/mechanic; watch/jeweller; bicycle/man at the workshop; boots/shoemaker

{him} put a {0} in the soup for a joke. He waited until {1} had taken the first spoon. But the old
lady did not scream; she smiled, said that it tasted better than usual, and ate the {0}.
    = spider/the teacher; worm/his aunt; fly/Mrs. Miller; frog/the cook; beetle/his landlady

My brother collects {0}. He has {1}, and he keeps them in boxes under his bed. For Christmas I never
have to think about a present: I just go to the shop in Queen Street and buy him some {0}.
    = stamps/more than six thousand; coins/some from Rome; knives/over two hundred; comics/every one
    since 1960; buttons/so many that he stopped counting

The {0} was locked. {her} tried every key on the ring, but none of them fitted. At last she took a
{1} from the kitchen, put it into the lock and turned it slowly, and with a click she opened the
{0}.
    = door/knife; box/fork; gate/hairpin; chest/piece of wire; safe/screwdriver

{him} hated the {0} that his {1} had made for him. It was too large and had an awful colour. But she
was coming to visit that afternoon, so he sighed, opened the drawer and put on the {0}.
    = sweater/mother-in-law; scarf/grandmother; hat/aunt; shirt/sister; tie/wife

When the war broke out, {him} buried his {0} in the {1}. He was away for six years. The first thing
that he did when he came home was to take a spade and dig up the {0}.
    = gold/garden; money/stable; silver/cellar; books/orchard; wine/field

The {1} asked {her} to look after his {0} while he was on holiday. It ate her slippers, broke two
lamps and kept her awake at night. After a week she decided that she would never again look after a
{0}.
    = dog/neighbour; monkey/zoo keeper; puppy/dentist; cat/student; goat/farmer

In our street there is a shop that sells nothing but {0}. Everyone said it would close within {1}.
That was nine years ago, and on Saturdays there is still a long line of people waiting to buy {0}.
    = cheese/a month; umbrellas/half a year; candles/a few weeks; hats/the first winter; honey/a
    year

The prisoner looked at the {0} in the corner of his cell every day. It was the only living thing
that he saw besides the {1}. When they let him go after seven years, he turned round once more and
said goodbye to the {0}.
    = spider/guard; rat/warden; mouse/man with the keys; plant/judge; bird/priest

The farmer's {0} was gone. The whole family searched the {1}, the barn and the road. It was little
{her} who found it in the church: there, in front of the altar, stood the {0}.
    = cow/woods; horse/fields; donkey/hills; pig/village; sheep/meadow

There was a {0} at the end of the {1}, and {him} knew that he had to cross it before dark. He ate
his last piece of bread and did not look back. Two days later he was found, fast asleep, on the
other side of the {0}.
    = bridge/path; desert/valley; swamp/trail; river/road; glacier/gorge

{her} paints only {0}. Her teacher told her to try {1} or a portrait, but she said no. If you visit
her little house by the sea, you will see that every wall is covered with pictures of {0}.
    = horses/a landscape; flowers/ships; cats/a bowl of fruit; birds/a street; trees/the sky

Do you see the {0} up there? {him} climbed it last year without {1}. He got to the top just before
dark, and he says that on a clear day you can see three countries from the {0}.
    = mountain/any help; tower/a rope; rock/shoes; hill/a map; cliff/telling anyone

{him} dropped his {0} into the {1}. He watched it go down, with small bubbles around it. A fisherman
asked him why he was crying, and he said that he had just lost his {0}.
    = ring/river; watch/lake; phone/harbour; camera/sea; wallet/canal

The first course was {1}, the second was {2}, and the third was {0}. {her} ate the first two and
then put down her fork. She said that she was sorry, but that she never ate {0}.
    = rabbit/soup/salmon; pork/salad/rice; duck/melon/shrimp; beef/mushrooms/eggs; lamb/cheese/pasta

{him} bet {him2} {1} that he could eat twenty {0}. The first ten were easy, and the next five were
hard. He put the last one into his mouth, turned green, and lost the bet: he had only eaten nineteen
{0}.
    = eggs/a hundred dollars; pancakes/his bicycle; sausages/a new hat; bananas/ten pounds; donuts/a
    week of work

When the {1} was over, the children ran to the {0}. There was only one for all of them, so they had
to stand in line. Nobody wanted to go home before he had had a turn on the {0}.
    = swing/lesson; carousel/rain; pony/speech; slide/film; trampoline/church service

A rich man had a {0} of solid gold made for his {1}. He was so afraid of thieves that he never let
anyone see it. When he died, nobody knew where it was, and to this day people are searching for the
golden {0}.
    = bed/wife; chair/guests; bell/chapel; statue/garden; plate/dinner table

The little {0} had lost its mother. {her} found it behind the {1} and carried it home in her coat.
She fed it with milk from a bottle, and in spring, when it was strong enough, she said goodbye to
the {0}.
    = fox/barn; deer/sawmill; lamb/old wall; owl/chapel; hedgehog/compost heap

{him} fell asleep during the {0}. He dreamed of {1} and began to snore, louder and louder. Everyone
turned round, and {her}, who was sitting beside him, wished that she had never taken him to the {0}.
    = opera/cows; concert/a steam engine; wedding/his dinner; funeral/the seaside; lecture/a long
    river

My uncle always carried a {0} in his pocket. It had {1}, and he said it brought him luck. On the day
he forgot it at home, he fell down the stairs, and since then none of us has laughed about the {0}.
    = stone/a hole in the middle; coin/two heads; nut/the shape of a heart; button/come off his
    first coat; key/once belonged to a bishop

The {1} had ordered a hundred {0} for the party. By mistake the company sent a thousand. For weeks
everybody in the town, rich or poor, young or old, went home with a bag full of {0}.
    = oranges/school; candles/church; lemons/bar; balloons/bank; potatoes/hotel

{her} asked for a room with a view of the {0}. The man at the desk gave her number {1} and wished
her a pleasant night. She opened the curtains and saw a brick wall; somewhere behind it, he
explained, was the {0}.
    = sea/twelve; lake/thirty; park/nine; mountains/forty; river/six

The {0} on the roof kept the family awake. First {him} threw {1} at it, then he shouted, then he
played the trumpet. It looked down at him with interest and stayed, and finally they had to move out
because of the {0}.
    = cat/a shoe; owl/snowballs; stork/an apple; crow/a slipper; raccoon/small stones

{her} found a {0} inside the {1} that she had bought on Tuesday. She took it back to the shop and
showed it to the manager. He went red in the face and offered her fifty dollars if she would forget
about the {0}.
    = nail/bread; mouse/bag of flour; tooth/sausage; coin/cake; key/can of beans

{him} is a famous {0} now, but it was not always so. When he started, people {1} and went home. His
mother was the only one who stayed to the end, and she told him that one day he would be a great
{0}.
    = singer/covered their ears; magician/saw all his tricks; actor/threw tomatoes; comedian/did not
    laugh; dancer/pointed at his feet

In the {1} there was a jar of {0}, and the lid was always closed. "Hands off," said the cook. One
evening {him} climbed on a chair, opened it with his teeth, and for an hour he was alone with the
{0}.
    = jam/pantry; cookies/kitchen; honey/cupboard; candy/cellar; pickles/storeroom

The {1} needed a new roof, so the villagers sold their {0}. It had been painted four hundred years
ago, and a museum wanted it badly. They have a dry place now, but the old people still cry for their
{0}.
    = painting/church; ceiling/school; altar/chapel; picture/town hall; portrait/old inn

"Please, {him}," said {her}, "do not bring any more {0} into the house." There were {1} on the table
already, and some on the bed. He nodded, waited until she had gone out, and came back with another
box full of {0}.
    = books/twenty; plants/nine; clocks/a dozen; frogs/three; puppies/five

They named the baby {0}, after the {1}. It was a strange name for a child, and {him} and {her} had
to explain it to everyone. Later, when she was famous, there were suddenly hundreds of little girls
called {0}.
    = Paris/city where they met; Venus/brightest star in the sky; Luna/moon; Asia/place of their
    first trip; Victoria/old queen

For the {1} of the play they needed a {0}. {him} said that he knew where to get one, and he was gone
for three days. On the evening of the first performance he came running onto the stage, sweating,
with a {0}.
    = last scene/sword; end/skull; second act/donkey; beginning/throne; big dance/drum

{her} had forty {0} to correct before Monday. On Sunday night she fell asleep over them and knocked
over {1}. The pupils were very happy when they heard what had happened to their {0}.
    = tests/her coffee; essays/a bottle of ink; exams/a glass of wine; papers/the candle;
    drawings/the soup

The {1} wanted to know what was under the {0}. He pulled at one corner, and a cloud of dust came up.
There was a door in the floor, and somebody had tried very hard to hide it with the {0}.
    = carpet/new owner; rug/inspector; straw/boy; mattress/electrician; hay/priest

{her} was only supposed to buy {0}, but the shop was full of nice things. She bought {1}, a red lamp
and a plant with yellow flowers. At home her husband stood in the door and asked her where she had
put the {0}.
    = milk/four cushions; bread/a basket; eggs/new shoes; butter/a silk scarf; potatoes/a garden
    chair

The {0} stood alone in the {1} and waited. It had brought people from one end of the land to the
other for fifty years. Now it was rusty and silent, and only the birds still lived in the old {0}.
    = train/station; bus/yard; ship/harbour; plane/desert; wagon/field

Half of the {1} were for building a new {0}, and the other half were against it. They shouted at
each other for three hours. Then {her} stood up and said that her father would have given his life
for a {0}.
    = school/villagers; hospital/farmers; bridge/townspeople; library/members; road/islanders

{him} told the police that he had been at the {0} all evening. {her}, the {1}, said that she had not
seen him there. He turned pale and admitted that he had never even been near the {0}.
    = theater/singer; gym/trainer; casino/waitress; cinema/ticket seller; library/student

When {her} was a child, her father gave her a {0} and told her {1}. She forgot his words, but she
kept his present. Yesterday, while her own son was playing in her room, she heard a cry: he had
broken the {0}.
    = drum/always to be kind; doll/to be brave; whistle/never to lie; kite/to look up at the sky;
    globe/to see the whole world

There are two kinds of people in this house: those who like {0} and those who like {1}. {him} says
that he likes both, but I have never seen him touch the {1}. When he thinks that nobody is looking,
he goes to the kitchen and takes the {0}.
    = tea/coffee; cheese/ham; chocolate/cake; rice/bread; butter/jam

The bride was crying, because she had forgotten her {0} at {1}. The priest looked at his watch, and
the guests began to whisper. Then the back door opened, and there stood her little brother, out of
breath, with her {0}.
    = shoes/her parents' house; ring/the hotel; veil/the hairdresser's; flowers/the station;
    glasses/the office

{her} wanted to go to {0}, and {him} wanted to go to {1}. They threw a coin, and he won. He had a
good time, but she sat in the hotel for two weeks and read a book about {0}.
    = India/Canada; Rome/Berlin; Egypt/Sweden; Paris/London; China/Brazil

People say that the {0} in the {1} brings bad luck. The last three owners died within a year. When
{him} heard this, he laughed, paid the full price, and on the same day he took home the {0}.
    = diamond/jeweller's window; mirror/antique shop; mask/back room of the museum; portrait/auction
    hall; sword/glass case

{her} was allowed to invite one guest to the {0}. She thought of {her2}, her best friend, and of
{him}, who had {1}. In the end she could not decide and told both of them that there was no more
room at the {0}.
    = ball/the nicest smile; dinner/helped her with her homework; ceremony/lent her his car;
    party/written her a poem; wedding/fed her cat
"""
