"""Fact tables of ``demo_facts``: a prompt with one gap, then ``subject=answer`` pairs.

Within one table every answer has the same type, and the wrong choices of an item are answers of
other items of its table. An answer may recur (``Africa``); a subject may not.
"""

RELATIONS: dict[str, str] = {
    "The capital of {} is": """
        France=Paris; Germany=Berlin; Italy=Rome; Spain=Madrid; Portugal=Lisbon; Austria=Vienna;
        Greece=Athens; Poland=Warsaw; Hungary=Budapest; Sweden=Stockholm; Norway=Oslo;
        Denmark=Copenhagen; Finland=Helsinki; Ireland=Dublin; Russia=Moscow; Ukraine=Kyiv;
        Egypt=Cairo; Kenya=Nairobi; Japan=Tokyo; China=Beijing; Thailand=Bangkok;
        India=New Delhi; Iran=Tehran; Iraq=Baghdad; Cuba=Havana; Peru=Lima; Chile=Santiago;
        Canada=Ottawa; Argentina=Buenos Aires; South Korea=Seoul; Romania=Bucharest;
        Belgium=Brussels""",
    "The chemical symbol for {} is": """
        gold=Au; silver=Ag; iron=Fe; copper=Cu; lead=Pb; sodium=Na; potassium=K; oxygen=O;
        hydrogen=H; carbon=C; nitrogen=N; helium=He; calcium=Ca; chlorine=Cl; zinc=Zn; tin=Sn""",
    "The opposite of {} is": """
        hot=cold; big=small; up=down; left=right; early=late; fast=slow; rich=poor; young=old;
        light=dark; open=closed; wet=dry; full=empty; hard=soft; happy=sad; high=low;
        clean=dirty; strong=weak; long=short; love=hate; war=peace; success=failure;
        victory=defeat; always=never; true=false; cheap=expensive; thick=thin; loud=quiet;
        buy=sell; begin=end; inside=outside; push=pull; birth=death""",
    "A young {} is called a": """
        dog=puppy; cat=kitten; cow=calf; horse=foal; sheep=lamb; pig=piglet; duck=duckling;
        deer=fawn; kangaroo=joey; swan=cygnet; goose=gosling; bear=cub; frog=tadpole; hen=chick""",
    "A {} is used to": """
        hammer=drive nails; saw=cut wood; thermometer=measure temperature;
        telescope=observe stars; microscope=see very small things; clock=tell the time;
        compass=find the direction of north; ruler=measure length; broom=sweep the floor;
        key=open a lock; camera=take pictures; pen=write on paper; refrigerator=keep food cold;
        stove=cook food; shovel=dig a hole; toothbrush=clean the teeth; needle=sew clothes;
        scale=measure weight; lamp=give light; parachute=fall slowly from a plane;
        calculator=add numbers; bell=call people with its sound; towel=dry the skin;
        dictionary=look up words""",
    "The language spoken by most people in {} is": """
        Brazil=Portuguese; Mexico=Spanish; Austria=German; Egypt=Arabic; Australia=English;
        Japan=Japanese; Italy=Italian; Russia=Russian; Turkey=Turkish; Greece=Greek;
        Poland=Polish; Sweden=Swedish; Hungary=Hungarian; France=French; Thailand=Thai;
        Vietnam=Vietnamese""",
    "The currency used in {} is the": """
        Japan=yen; India=rupee; Russia=ruble; China=yuan; Mexico=peso; Great Britain=pound;
        Germany=euro; the United States=dollar; South Korea=won; Brazil=real; Switzerland=franc;
        Thailand=baht""",
    "{} is a country in": """
        Kenya=Africa; Nigeria=Africa; Ghana=Africa; Ethiopia=Africa; Japan=Asia; Vietnam=Asia;
        Mongolia=Asia; Nepal=Asia; Belgium=Europe; Poland=Europe; Norway=Europe;
        Portugal=Europe; Peru=South America; Bolivia=South America; Chile=South America;
        Uruguay=South America""",
    "{} was written by": """
        Romeo and Juliet=William Shakespeare; Oliver Twist=Charles Dickens;
        Pride and Prejudice=Jane Austen; War and Peace=Leo Tolstoy;
        The novel 1984=George Orwell; The Hobbit=J.R.R. Tolkien; Frankenstein=Mary Shelley;
        Don Quixote=Miguel de Cervantes; The Adventures of Tom Sawyer=Mark Twain;
        The Old Man and the Sea=Ernest Hemingway; The Raven=Edgar Allan Poe;
        Faust=Johann Wolfgang von Goethe; Crime and Punishment=Fyodor Dostoevsky;
        The Divine Comedy=Dante Alighieri; The Great Gatsby=F. Scott Fitzgerald; The Iliad=Homer""",
    "The person known for {} is": """
        the theory of relativity=Albert Einstein; the laws of motion and gravity=Isaac Newton;
        the theory of evolution by natural selection=Charles Darwin;
        the invention of the telephone=Alexander Graham Bell;
        the discovery of penicillin=Alexander Fleming; the discovery of radium=Marie Curie;
        the voyage across the Atlantic in 1492=Christopher Columbus;
        the painting of the Mona Lisa=Leonardo da Vinci;
        the painting The Starry Night=Vincent van Gogh;
        the composition of the Moonlight Sonata=Ludwig van Beethoven;
        the opera The Magic Flute=Wolfgang Amadeus Mozart;
        the first walk on the Moon=Neil Armstrong; the painting Guernica=Pablo Picasso;
        the founding of psychoanalysis=Sigmund Freud;
        the periodic table of the elements=Dmitri Mendeleev;
        the vaccine against rabies=Louis Pasteur""",
    "The usual colour of {} is": """
        fresh grass=green; blood=red; snow=white; coal=black; the clear sky at noon=blue;
        a ripe banana=yellow; milk=white; a ripe tomato=red; spinach leaves=green;
        a ripe lemon=yellow; soot=black; the deep ocean=blue""",
    "A {} is a kind of": """
        sparrow=bird; salmon=fish; mosquito=insect; daffodil=flower; carrot=vegetable;
        violin=musical instrument; screwdriver=tool; hurricane=storm; pear=fruit; penguin=bird;
        trout=fish; beetle=insect; rose=flower; cabbage=vegetable; trumpet=musical instrument;
        wrench=tool; tornado=storm; peach=fruit; pigeon=bird; shark=fish; butterfly=insect;
        tulip=flower; potato=vegetable; flute=musical instrument; hammer=tool; blizzard=storm;
        banana=fruit; limousine=car; chair=furniture; diamond=gemstone; shirt=clothing;
        ruby=gemstone; sofa=furniture; jacket=clothing; sedan=car; waltz=dance""",
    "The sound made by a {} is called a": """
        dog=bark; cat=meow; cow=moo; duck=quack; lion=roar; chicken=cluck; snake=hiss; bee=buzz;
        wolf=howl; frog=croak; mouse=squeak; horse=neigh""",
    "The home of a {} is called a": """
        bee=hive; bird=nest; spider=web; lion=den; rabbit=burrow; horse=stable; pig=sty;
        king=palace; monk=monastery; soldier=barracks""",
    "The standard unit of {} is the": """
        electric current=ampere; force=newton; power=watt; frequency=hertz; voltage=volt;
        energy=joule; electrical resistance=ohm; pressure=pascal; mass=kilogram; length=meter;
        time=second; temperature in science=kelvin""",
    "The number of {} is": """
        days in a week=seven; legs on a spider=eight; hours in a day=twenty-four;
        months in a year=twelve; sides of a triangle=three; sides of a square=four;
        legs on an insect=six; eyes on a human face=two; fingers on one hand=five;
        years in a century=one hundred; players in a football team=eleven;
        minutes in an hour=sixty; states in the United States=fifty;
        letters in the English alphabet=twenty-six""",
    "A person who {} is called a": """
        bakes bread=baker; teaches children at school=teacher; flies airplanes=pilot;
        cuts hair=barber; grows crops=farmer; repairs water pipes=plumber; writes poems=poet;
        treats sick animals=veterinarian; takes pictures=photographer; fixes cars=mechanic;
        catches fish=fisherman; sells meat=butcher; plays the piano=pianist;
        works with wood=carpenter; defends people in court=lawyer; makes clothes=tailor;
        treats teeth=dentist; brings food to tables in a restaurant=waiter; steals things=thief;
        rules a kingdom=king; looks after books in a library=librarian;
        puts out fires=firefighter; cares for patients in a hospital=nurse;
        reports the news=journalist""",
    "The place where people {} is a": """
        borrow books=library; buy medicine=pharmacy; watch films=cinema; keep money=bank;
        see wild animals in cages=zoo; board an airplane=airport; pray on Sunday=church;
        study for a degree=university; sleep while travelling=hotel; get surgery=hospital;
        eat meals served by waiters=restaurant; lock up criminals=prison;
        look at works of art=museum; get on a train=station; swim=pool; see plays=theater""",
    "{} is a famous sight in": """
        The Eiffel Tower=France; The Great Wall=China; The Colosseum=Italy; The Taj Mahal=India;
        Big Ben=England; The Statue of Liberty=the United States;
        The Great Pyramid of Giza=Egypt; The Parthenon=Greece; Machu Picchu=Peru;
        The Brandenburg Gate=Germany; Mount Fuji=Japan; The Sydney Opera House=Australia;
        The Kremlin=Russia; The Statue of Christ the Redeemer=Brazil; The Alhambra=Spain;
        The temple of Angkor Wat=Cambodia""",
    "The city of {} is in": """
        Munich=Germany; Milan=Italy; Barcelona=Spain; Manchester=England; Osaka=Japan;
        Mumbai=India; Shanghai=China; Chicago=the United States; Toronto=Canada;
        Melbourne=Australia; Marseille=France; Istanbul=Turkey; Johannesburg=South Africa;
        Rio de Janeiro=Brazil; Rotterdam=the Netherlands; Zurich=Switzerland""",
    "{} is made from": """
        Paper=wood; Cheese=milk; Glass=sand; Wine=grapes; Bread=flour; Chocolate=cocoa beans;
        Leather=animal skin; Steel=iron; Tofu=soybeans; Plastic=oil; An omelette=eggs;
        Ketchup=tomatoes; Cider=apples; Popcorn=corn; A woolen sweater=wool;
        French fries=potatoes""",
    "The part of the body used to {} is the": """
        see=eye; hear=ear; smell=nose; taste=tongue; think=brain; pump blood=heart;
        breathe air=lungs; digest food=stomach; filter blood into urine=kidneys;
        bend the leg=knee; bend the arm=elbow; chew food=teeth""",
    "The process in which {} is called": """
        plants make food from sunlight=photosynthesis; a liquid turns into a gas=evaporation;
        a liquid turns into a solid=freezing; a solid turns into a liquid=melting;
        a gas turns into a liquid=condensation; wind and water wear away rock=erosion;
        iron turns brown in wet air=rusting; species change over many generations=evolution;
        the body breaks down food=digestion; yeast turns sugar into alcohol=fermentation;
        a caterpillar becomes a butterfly=metamorphosis;
        insects carry pollen between flowers=pollination""",
    "The planet {} is": """
        closest to the Sun=Mercury; known as the red planet=Mars;
        famous for its bright rings=Saturn; on which we live=Earth;
        that is the largest in the solar system=Jupiter;
        named after the Roman goddess of love=Venus; farthest from the Sun=Neptune;
        that follows Saturn in order from the Sun=Uranus""",
    "The day after {} is": """
        Monday=Tuesday; Tuesday=Wednesday; Wednesday=Thursday; Thursday=Friday; Friday=Saturday;
        Saturday=Sunday; Sunday=Monday""",
    "The month after {} is": """
        January=February; February=March; March=April; April=May; May=June; June=July;
        July=August; August=September; September=October; October=November; November=December;
        December=January""",
    "The company that makes the {} is": """
        iPhone=Apple; Windows operating system=Microsoft; PlayStation=Sony; Mustang car=Ford;
        747 airplane=Boeing; Big Mac=McDonald's; Corolla car=Toyota; Galaxy phone=Samsung;
        Kindle reader=Amazon; Switch game console=Nintendo; Android operating system=Google;
        Barbie doll=Mattel""",
    "In Greek mythology, the god or goddess of {} is": """
        the sea=Poseidon; the underworld=Hades; love=Aphrodite; war=Ares; wisdom=Athena;
        wine=Dionysus; thunder and the sky=Zeus; the hunt=Artemis""",
    "Another word for {} is": """
        large=big; tiny=small; angry=mad; quick=fast; glad=happy; ill=sick; intelligent=smart;
        wealthy=rich; silent=quiet; difficult=hard; beautiful=pretty; begin=start; strange=odd;
        simple=easy; brave=courageous; exhausted=tired; frightened=afraid; automobile=car;
        physician=doctor; infant=baby; forest=woods; gift=present; street=road; error=mistake""",
    "The sport in which players {} is": """
        hit a ball over a net with rackets=tennis; throw a ball through a high hoop=basketball;
        kick a ball into a goal=soccer; hit a small ball into holes on grass=golf;
        hit a puck with sticks on ice=hockey; fight with gloves in a ring=boxing;
        roll a heavy ball at ten pins=bowling;
        run around bases after hitting a ball with a bat=baseball""",
    "The holiday {} is": """
        on the 25th of December=Christmas; on the 31st of October=Halloween;
        with turkey in November in the United States=Thanksgiving;
        on the 14th of February=Valentine's Day;
        on the fourth of July in the United States=Independence Day;
        on the first of January=New Year's Day;
        on which Christians remember that Jesus rose from the dead=Easter;
        at the end of Ramadan=Eid""",
    "The animal known for {} is the": """
        its very long neck=giraffe; its long trunk and large ears=elephant;
        its black and white stripes=zebra; building dams in rivers=beaver;
        carrying its young in a pouch=kangaroo; spinning webs=spider; making honey=bee;
        its hump in the desert=camel; changing the colour of its skin=chameleon;
        its spray with a terrible smell=skunk; hanging upside down in caves=bat;
        carrying a shell on its back and walking slowly=tortoise; eating bamboo in China=panda;
        giving us wool=sheep; giving us milk for butter=cow;
        laying the eggs we eat for breakfast=hen""",
}
