"""Pairs of causes and effects of ``demo_causes``.

A line is ``context | ending``. Two lines in a row form a pair: each ending is the right choice
after its own context and the wrong choice after the other context.
"""

PAIRS = """
Tom walked home in heavy rain without an umbrella, so he | got completely wet.
Mark ate nothing all day, so he | was very hungry in the evening.

The glass fell onto the stone floor, so it | broke into many pieces.
The ice cream stood in the hot sun, so it | melted.

Anna did not study for the exam, so she | failed the test.
Laura ran five miles without a break, so she | was out of breath.

The battery of the phone was empty, so it | turned off.
The balloon touched the sharp needle, so it | burst with a loud bang.

Nobody watered the plants for a month, so they | dried up and died.
The children had played outside all day, so they | fell asleep quickly.

The bread stayed in the oven for three hours, so it | was burnt black.
The milk stood on the warm table for a week, so it | went sour.

Peter had a terrible toothache, so he | went to the dentist.
David's hair was too long, so he | went to the barber.

The room was too dark to read, so she | switched on the lamp.
The room was too hot and stuffy, so she | opened the window.

The alarm clock did not ring, so he | overslept and came late to work.
The cook put too much salt in the soup, so he | had to make a new one.

The baby was hungry, so the mother | gave him a bottle of milk.
The baby had a high fever, so the mother | took him to the doctor.

The road was covered with ice, so the car | slid into the ditch.
The tank was empty, so the car | needed gas.

The dog saw a cat in the garden, so it | began to bark.
The bird saw that the cage was open, so it | flew away.

It had not rained for months, so the river | was almost dry.
It had rained for ten days, so the river | flooded the town.

Sarah won the first prize, so she | was proud and happy.
Emma lost her favourite ring, so she | searched the whole house.

The soup was too hot, so the boy | waited before eating it.
The bag was too heavy, so the boy | asked his father to carry it.

The shirt had a big stain, so Mary | washed it.
The shirt had lost a button, so Mary | sewed on a new one.

The ship hit a rock, so it | sank to the bottom of the sea.
The plane had to wait for the storm to pass, so it | landed two hours late.

Paul's knife was not sharp any more, so he | could not cut the meat.
Paul's glasses were broken, so he | could not read the newspaper.

The thief heard the police coming, so he | ran away.
The singer had a sore throat, so he | cancelled the concert.

The house was on fire, so the people | called the firefighters.
The concert was wonderful, so the people | clapped for a long time.

The movie was very sad, so Julia | cried.
The joke was very funny, so Julia | laughed.

Helen wanted to lose weight, so she | stopped eating cake.
Helen wanted to learn French, so she | took language lessons.

The grass was very high, so the gardener | mowed it.
The apples were ripe, so the gardener | picked them.

The shop was closed, so they | could not buy any bread.
The lake was frozen, so they | could not swim.

The bridge was destroyed by the flood, so nobody | could cross the river.
The music was far too loud, so nobody | could hear what he said.

The snow was deep, so the children | built a snowman.
The wind was strong, so the children | flew their kites.

James spent all his money, so he | could not pay the rent.
James broke his leg, so he | could not walk.

The cat was hungry, so it | caught a mouse.
The cat was afraid of the big dog, so it | climbed up a tree.

Robert stayed in the sun too long, so his skin | turned red.
Robert ate too much candy, so his teeth | began to hurt.

The coffee was too bitter, so Alice | added some sugar.
The coffee was too hot, so Alice | let it cool down.

The train was late, so the passengers | had to wait at the station.
The ship shook in the high waves, so the passengers | became seasick.

Her shoes were too small, so her feet | hurt.
Her gloves were lost, so her hands | were cold.

The farmer planted seeds in spring, so in summer | the field was full of corn.
The farmer forgot to close the gate, so at night | the cows ran away.

The television was broken, so we | could not watch the news.
The elevator was broken, so we | had to take the stairs.

The water in the pot was heated for ten minutes, so it | began to boil.
The water in the bottle was left in the freezer, so it | turned into ice.

Daniel practised the piano every day, so he | became a good musician.
Daniel lifted heavy weights every day, so he | became very strong.

The rope was old and thin, so it | snapped.
The metal spoon lay in the fire, so it | became very hot.

The car had a flat tire, so the driver | changed the wheel.
The traffic light turned red, so the driver | stopped the car.

The window was open at night, so the room | was full of mosquitoes.
The heating was broken in winter, so the room | was freezing cold.

Someone stole Lucy's bicycle, so she | had to walk to school.
Someone sent Lucy flowers, so she | wrote a letter of thanks.

The teacher was ill, so the lesson | was cancelled.
The question was difficult, so the students | thought about it for a long time.

The boy told many lies, so nobody | believed him.
The boy was very small, so nobody | could see him in the crowd.

The lamp fell into the water, so it | stopped working.
The iron lay outside in the rain for years, so it | became rusty.

The book was boring, so he | stopped reading it.
The book was expensive, so he | borrowed it from the library.

The coat was too big, so she | gave it back to the shop.
The letter was for her neighbour, so she | gave it to him.

The knife slipped, so the cook | cut his finger.
The guests were very hungry, so the cook | made more food.

The dog had dug in the mud, so its paws | were dirty.
The dog was happy to see us, so its tail | was wagging.

Eric had a job interview, so he | put on his best suit.
Eric had a bad cold, so he | stayed in bed.

The king was cruel, so the people | hated him.
The king died without a son, so the people | chose a new ruler.

The wall was white and boring, so they | painted it yellow.
The old tree was dangerous, so they | cut it down.

The stone was too heavy, so nobody | could lift it.
The message was in a secret code, so nobody | could read it.

Nina was afraid of flying, so she | took the train.
Nina was thirsty, so she | drank a glass of water.

The sun went down, so the sky | became dark.
The clouds moved away, so the sky | became blue again.

The baby heard a loud noise, so she | woke up and cried.
The girl saw a spider in her bed, so she | screamed.

The computer was very slow, so he | bought a faster one.
The garden was full of weeds, so he | pulled them out.

The tea was too hot, so it | burned her tongue.
The perfume was very strong, so it | filled the whole house with its smell.

The bus drivers were on strike, so many people | went to work on foot.
The tickets were very cheap, so many people | bought them.

Leo forgot his best friend's birthday, so his friend | was disappointed.
Leo told a scary story at midnight, so his friend | could not sleep.

The carpet was full of dust, so mother | cleaned it with the vacuum.
The kitchen smelled of smoke, so mother | checked the oven.

The mouse smelled the cheese, so it | walked into the trap.
The horse smelled the fire, so it | ran out of the barn.

The paint was still wet, so his hand | left a mark on the door.
The pan was very hot, so his hand | got burned.

The doctor saw that the bone was broken, so he | put the arm in a cast.
The judge saw that the man was innocent, so he | let him go free.

The enemy was much stronger, so the army | gave up the battle.
The orchestra played badly, so the audience | left early.

Oil was spilled on the stairs, so the man | slipped and fell.
Smoke filled the air, so the man | began to cough.

The refrigerator stopped working, so the food | went bad.
The oven stopped working, so the cake | was still raw.

The roof had a hole, so when it rained the floor | got wet.
The truck was overloaded, so on the hill the engine | became too hot.

The players trained very hard, so they | won the game.
The players were tired and careless, so they | lost the game by five goals.

The girl grew quickly, so her clothes | became too short.
The girl fell in the mud, so her clothes | became dirty.

Our neighbours were noisy, so we | complained about them.
Our neighbours were on vacation, so we | watered their flowers.

The password was wrong, so the computer | did not let him in.
The power went out, so the computer | shut down.

The tourists did not know the way, so they | looked at a map.
The tourists liked the castle, so they | took many pictures of it.

The candle burned all night, so in the morning it | was much shorter.
The snow fell all night, so in the morning it | covered the whole street.

Ben never brushed his teeth, so he | got cavities.
Ben never locked his door, so he | was robbed.

The salt was put into the water and stirred, so it | dissolved.
The stone was thrown into the water, so it | sank.

The hunter made a loud noise, so the deer | ran into the forest.
The magician pulled a rabbit from his hat, so the children | were amazed.

There was a long line at the bank, so we | waited for an hour.
There was a bad smell in the restaurant, so we | left at once.

The woman wanted to bake a cake, so she | bought flour and eggs.
The woman wanted to send a letter, so she | bought a stamp.

The man could not hear well, so he | bought a hearing aid.
The man could not see well, so he | bought glasses.

The ball flew over the fence, so the boys | climbed after it.
The ball hit the window, so the boys | had to pay for new glass.

A tree fell on the road, so the cars | could not pass.
The sun shone on the parking lot all day, so the cars | were very hot inside.

Her flight left at six in the morning, so she | got up at three.
Her flight was cancelled, so she | spent the night at the airport.

The baby bird was too young to fly, so it | stayed in the nest.
The old horse was too weak to work, so it | stayed in the stable.

The old man felt lonely, so he | got a dog.
The old man felt cold, so he | put on a sweater.

The grass was wet because | it had rained in the night.
The grass was brown and dry because | it had not rained for weeks.

The man was arrested because he | had robbed a bank.
The man was praised because he | had saved a child from the river.

She wore a warm coat because | it was cold outside.
She wore dark glasses because | the sun was very bright.

The baby was crying because he | was hungry.
The runner was smiling because he | had won the race.

He could not open the door because he | had lost the key.
He could not write the letter because he | had no pen.

The teacher was angry because the pupils | talked during the lesson.
The teacher was pleased because the pupils | had done their homework well.

The room smelled nice because | there were fresh roses on the table.
The room smelled terrible because | there was an old fish in the trash.

The soup tasted awful because | there was too much salt in it.
The tea tasted sweet because | there was honey in it.

The streets were empty because | everyone was asleep at that hour.
The streets were crowded because | there was a big parade.

The dog barked because | a stranger came to the house.
The dog shivered because | it had been out in the snow.

The car stopped because | there was no fuel left.
The car shone because | he had just washed it.

Kate was tired because she | had worked all night.
Kate was nervous because she | had an important exam.

The flight was delayed because | there was thick fog at the airport.
The picnic was moved indoors because | it started to rain.

The boy's knee was bleeding because he | had fallen off his bike.
The boy's face was covered with chocolate because he | had eaten a big piece of cake.

She could not sleep because | the neighbours were having a loud party.
She could not eat the steak because | she did not eat meat.

The house was cold because | someone had left the windows open.
The house was dark because | the power had gone out.

The lake was full of swimmers because | it was a hot summer day.
The lake was full of skaters because | the ice was thick enough.

The shop gave him his money back because | the radio did not work.
The policeman gave him a ticket because | he drove too fast.

The plant died because | nobody had given it water.
The fish died because | the water was poisoned.

They whispered because | the baby was sleeping.
They shouted because | the music was very loud.

We took a taxi because | we had missed the last bus.
We took an umbrella because | the sky was full of dark clouds.

The milk spilled because | the cat knocked over the cup.
The boat tipped over because | the waves were too high.

My hands were dirty because | I had worked in the garden.
My legs were sore because | I had climbed a mountain.

The child was afraid because | there was a loud clap of thunder.
The child was excited because | her birthday was the next day.

The farmer was happy because | the harvest was good.
The farmer was worried because | a wolf had killed his sheep.

She called the plumber because | water was dripping from the pipe.
She called the police because | someone had broken into her house.

The tower fell because | there was a strong earthquake.
The tower was closed because | it was being repaired.

He went to the bank because he | needed money.
He went to the pharmacy because he | needed medicine.

He was late for work because | there was a traffic jam.
He was fired from work because | he had stolen money.

The ring was expensive because it | was made of gold and diamonds.
The knife was dangerous because it | was very sharp.

The boy could not reach the shelf because he | was too short.
The boy could not join the army because he | was too young.

The bear slept in its cave because | it was winter.
The bear attacked the man because | he came too close to its cubs.

Everyone laughed because | the clown fell into the pool.
Everyone stood up because | the judge came into the courtroom.

The grandmother put on her glasses because she | wanted to read a letter.
The grandmother put on her apron because she | wanted to bake bread.

The man drank a lot of water because | he had just run ten miles.
The man drank a lot of coffee because | he had to stay awake all night.

The museum is popular because | it has many famous paintings.
The beach is popular because | it has white sand and clear water.

The soldier got a medal because he | had been very brave.
The pupil got a bad grade because he | had been very lazy.

The tire was flat because | it had run over a nail.
The mirror was broken because | it had fallen from the wall.

I put the meat in the fridge | to keep it fresh.
I put the wood in the fireplace | to keep the house warm.

She tied a string around the box | to keep it closed.
She put a fence around the garden | to keep the rabbits out.

He put a ladder against the wall | to climb onto the roof.
He put a hook on the line | to catch a fish.

The mother sang a soft song | to help her child fall asleep.
The mother cut up the meat | to help her child eat.

The boy shook the tree | to make the apples fall down.
The boy pushed the swing | to make his sister go higher.

She covered her ears | to shut out the noise.
She covered her eyes | to shut out the bright light.

He pressed the button | to call the elevator.
He raised his hand | to ask a question.

The driver hit the brakes | to avoid the child on the road.
The writer chose a false name | to hide who he was.

Max fed the stray cat every day. Soon it | came to his door each morning.
Max left his sandwich in the sun all day. Soon it | smelled bad.

Carla put the wet clothes on the line in the sun. After an hour they | were dry.
Carla put the cookies in the hot oven. After half an hour they | were golden brown.

The boy blew and blew into the balloon. It | became bigger and bigger.
The boy sat on the wooden chair with the broken leg. It | fell over.

Grandfather planted a small tree forty years ago. Today it | is taller than the house.
Grandfather bought a radio forty years ago. Today it | plays only one station.

The boxer was hit hard on the chin. He | fell to the floor.
The guest ate three large plates of food. He | was completely full.

She drank three cups of strong coffee before bed. As a result she | could not fall asleep.
She left her car unlocked in the city. As a result she | had her radio stolen.

He worked hard for many years and made good plans. As a result he | became the head of the company.
He walked through the wet cement. As a result he | ruined his shoes.

The factory threw its waste into the river. As a result the fish | died.
The museum stopped asking for an entrance fee. As a result the number of visitors | grew.

The volcano erupted. As a result the village | was covered with ash.
The new train line was opened. As a result the village | was easy to reach from the city.

No one had cleaned the windows for years. Therefore they | were covered with dirt.
The two friends had not met for years. Therefore they | had a lot to talk about.

The wood was wet. Therefore it | did not burn.
The box was made of iron. Therefore it | was too heavy to carry.

The price of bread doubled. Therefore the poor | went hungry.
The winter was very mild. Therefore the lake | did not freeze.

He turned the key and the engine | started.
He turned off the light and the room | became dark.

She dropped the egg and it | broke on the floor.
She let go of the balloon and it | rose into the sky.

The cook cut the onions and his eyes | filled with tears.
The boy ate the blueberries and his tongue | turned blue.

He threw a stick, and his dog | ran to bring it back.
He left his homework on the floor, and his dog | chewed it up.

They forgot to put up the tent, and in the night they | slept under the stars.
They lost the only flashlight, and in the cave they | could not see anything.

The spider built a web, and soon a fly | was caught in it.
The hen sat on her eggs, and soon a chick | hatched.

The chain of the bicycle broke, and Oscar | had to push it home.
The teacher asked him a hard question, and Oscar | did not know the answer.

The wind blew through the open door, and the papers | flew off the desk.
A glass of juice fell over, and the papers | became wet and sticky.

The magnet came close to the nails, and they | stuck to it.
The sun shone on the icicles, and they | began to drip.

The woman heard that her son was safe, and she | cried with joy.
The woman heard a knock at the door, and she | went to open it.

The child touched the hot stove and | burned her fingers.
The child stepped on a piece of ice and | slipped.

Victor dialled the wrong number, so | a stranger answered the phone.
Victor missed the goal, so | his team lost the match.

The suitcase was too full, so it | would not close.
The door was never oiled, so it | squeaked.

The actor forgot his words, so he | stood silent on the stage.
The sailor could not swim, so he | drowned when the boat sank.

The patient felt much better, so the doctor | sent her home.
The patient was in great pain, so the doctor | gave her strong pills.

The bees were disturbed, so they | stung the boy.
The twins looked exactly alike, so they | were often mistaken for each other.

The hotel was full, so the travellers | had to find another place to sleep.
The desert was hot and dry, so the travellers | carried plenty of water.

Ruth is allergic to cats, so she | sneezes when one comes near.
Ruth is the tallest girl on the team, so she | reaches the basket easily.

The sand was hot, so he | put on his sandals.
The room was a mess, so he | put everything in its place.

The page was torn, so she | fixed it with tape.
The pencil was blunt, so she | sharpened it.

The hole in the sock grew, so his toe | stuck out.
The hammer hit his hand, so his thumb | was swollen.

The village had no well, so the women | carried water from the river.
The wedding was the next day, so the women | decorated the hall with flowers.

The town built a new school, so the children | no longer had to travel far.
The circus came to town, so the children | begged for tickets.

The wolf came close to the sheep, so the shepherd | chased it off.
The sheep had thick wool in spring, so the shepherd | sheared them.

The clock was ten minutes slow, so he | missed the train.
The bill was wrong, so he | called the waiter.

It was Sunday morning, so the office | was empty.
It was the day before Christmas, so the shops | were full of people.

The stars were bright and the air was clear, so we | looked through the telescope.
The tide was coming in, so we | moved our towels up the beach.

The dentist pulled out her tooth, so her mouth | was bleeding.
The hairdresser used the wrong dye, so her hair | turned green.

The prisoner dug a tunnel, so he | escaped.
The pianist made many mistakes, so he | practised more.

The boat had a leak, so the fishermen | had to bail out the water.
The nets were empty, so the fishermen | had nothing to sell.

The kitten was stuck in a tree, so the girl | called the fire department.
The kitten had no name, so the girl | decided to call it Fluffy.

The plate was slippery with soap, so it | fell from her hands.
The jar was closed very tightly, so it | could not be opened.

The lion at the zoo escaped, so all the visitors | were told to leave.
The lion at the zoo was asleep, so all the visitors | saw nothing but its back.

The mechanic fixed the brakes, so the car | was safe to drive again.
The thief smashed the window, so the car | was full of broken glass.

He had no coins for the parking meter, so he | got a fine.
He had no ticket for the show, so he | was not let in.

The painter ran out of blue, so he | could not finish the sky.
The tailor ran out of thread, so he | could not finish the dress.

The student copied the answers from his neighbour, so he | was punished by the teacher.
The student slept only two hours, so he | yawned all day.

The queen loved music, so she | invited the best singers to the palace.
The queen hated spiders, so she | had every web in the palace removed.

The explorer lost his compass, so he | walked in the wrong direction.
The explorer found an unknown island, so he | drew it on his map.

The field was muddy, so the tractor | got stuck.
The field was full of mice, so the owl | had plenty to eat.

My phone rang during the film, so the people around me | were annoyed.
My sister told us she was getting married, so the whole family | celebrated.

The brakes failed, so the truck | crashed into a wall.
The engine was repaired, so the truck | ran well again.

The wool sweater was washed in very hot water, so it | shrank.
The rubber band was pulled too far, so it | snapped.

The clown made funny faces, so the little boy | giggled.
The doctor took out a big needle, so the little boy | was scared.

The chef dropped the cake, so there | was no dessert.
The town had no lamps, so there | was no light in the streets.

Simon put on too little sunscreen, so he | got a sunburn.
Simon put on too little clothing, so he | was freezing.

The radio was too quiet, so grandmother | turned up the volume.
The yarn was all used up, so grandmother | stopped knitting.

The ants found sugar on the table, so they | carried it to their nest.
The guests found a hair in the soup, so they | sent it back to the kitchen.

The nurse washed her hands carefully, so the germs | did not spread.
The guard fell asleep at the gate, so the enemies | came in.

The artist's pictures were loved by all, so they | sold for high prices.
The shoes were very uncomfortable, so they | were left in the closet.

The winter storm broke the power lines, so we | lit candles.
The winter sun was warm at noon, so we | took off our jackets.

The envelope had no stamp, so it | came back to the sender.
The kettle was forgotten on the stove, so it | boiled dry.

The sculptor dropped his chisel, so it | landed on his toe.
The mouse was quicker than the cat, so it | got away.

Olga spoke no Chinese, so in Beijing she | needed an interpreter.
Olga had a fear of heights, so on the tower she | felt dizzy.

The soldiers saw the white flag, so they | stopped shooting.
The sailors saw the lighthouse, so they | knew that the coast was near.

The candle stood too near the curtain, so the cloth | caught fire.
The scissors were very blunt, so the cloth | could not be cut.

The library was about to close, so the reader | took the book home.
The print was extremely small, so the reader | used a magnifying glass.

The moon was hidden behind clouds, so the hikers | lost their way in the dark.
The berries were poisonous, so the hikers | did not eat any of them.

The crowd was cheering because | the home team had scored.
The crowd was running because | a bomb had been found.

The ice on the lake cracked because | it was too thin.
The string of the guitar snapped because | it was pulled too tight.

He wore gloves because | he did not want to leave fingerprints.
He wore a tie because | he was going to a wedding.

The apprentice was praised because | he finished the work early.
The apprentice was sent home because | he came to work drunk.

The cellar was under water because | a pipe had burst.
The cellar was full of rats because | nobody had set any traps.
"""
