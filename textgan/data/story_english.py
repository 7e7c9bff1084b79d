"""The English stories: something is lost, wished for, rescued, or baked for somebody. Notation: `story_notation`.

What must agree over a whole story: the pronouns and the name of the hero; a or an; the thing lost, its place and its
damage; tool and obstacle; what the rescued one needs, gets and does; the helper; a relative and the pronoun; the hour
after the time of day; the weather; the temper; the ending with the luck of the attempt.

820,120,576 stories, 17.741 nats each.
"""

LEXICON = """
hero | an | noun | he | him | his
    2 Tom | a  | boy      | he  | him | his
    2 Leo | a  | boy      | he  | him | his
    2 Mia | a  | girl     | she | her | her
    2 Nora | a | girl     | she | her | her
    Pip   | a  | mouse    | he  | him | his
    Otto  | an | owl      | he  | him | his
    Ruby  | a  | fox      | she | her | her
    Ada   | an | otter    | she | her | her

trait | an
    shy       | a
    lonely    | a
    grumpy    | a
    impatient | an

weather | noun
    windy | wind
    rainy | rain
    foggy | fog
    sunny | sunshine

time | span
    morning   | day
    afternoon | day
    evening   | night

later | after | dark
    by noon        | morning           | no
    by teatime     | afternoon         | no
    at sunset      | morning,afternoon | yes
    before bedtime | evening           | yes
    at midnight    | evening           | yes

helper | a
    turtle | an old turtle
    goat   | a white goat
    mole   | a polite mole
    goose  | a bossy goose
    snail  | a silver snail
    sailor | an old sailor
    miller | a kind miller
    wizard | an untidy wizard

thing | look | ruin
    kite     | red    | torn
    drum     | tin    | flat
    mitten   | blue   | full of holes
    umbrella | yellow | inside out
    whistle  | wooden | cracked
    crown    | paper  | soggy
    shoe     | left   | full of frogs

spot
    in the garden
    behind the barn
    by the pond
    under the hedge
    in the meadow

nest
    in the old oak
    inside a pumpkin
    behind the waterfall
    in the haystack
    on the church roof

wish | past | result | dark
    see the sea          | saw the sea          | it was bigger than the sky     | yes,no
    ring the great bell  | rang the great bell  | it woke even the snails        | yes,no
    touch the moon       | touched the moon     | it was as cold as milk         | yes
    hear the stars sing  | heard the stars sing | it sounded like rain on glass  | yes
    meet the old dragon  | met the old dragon   | it only wanted a cup of tea    | yes,no
    pick the golden pear | picked the golden pear | it tasted like snow          | yes,no
    read the secret book | read the secret book | it was full of jokes           | yes,no
    find the blue rose   | found the blue rose  | it smelled like summer         | yes,no

trouble | a | at | past
    river | a deep river   | at a deep river      | crossed the river
    wall  | a high wall    | below a high wall    | climbed the wall
    cave  | a dark cave    | outside a dark cave  | walked through the cave
    gate  | a locked gate  | at a locked gate     | opened the gate
    giant | a hungry giant | near a hungry giant  | fed the giant

tool | a | fits | fail
    boat    | a small boat    | river | sprang a leak
    raft    | a straw raft    | river | fell apart
    ladder  | a ladder        | wall  | was too short
    rope    | a long rope     | wall  | snapped
    lantern | a lantern       | cave  | went out
    candle  | an old candle   | cave  | blew out
    key     | an iron key     | gate  | did not fit
    hairpin | a hairpin       | gate  | bent
    cheese  | a whole cheese  | giant | was too small
    stew    | a pot of stew   | giant | was too hot

foundling | a | woe | need | deed
    star    | a fallen star     | too cold to shine    | cold    | shine
    egg     | an enormous egg   | too cold to hatch    | cold    | hatch
    firefly | a tiny firefly    | too cold to glow     | cold    | glow
    sparrow | a young sparrow   | too hungry to sing   | hungry  | sing
    kitten  | a gray kitten     | too hungry to purr   | hungry  | purr
    ghost   | a small ghost     | too hungry to howl   | hungry  | howl
    cloud   | a lost cloud      | too thirsty to rain  | thirsty | rain
    seed    | an odd seed       | too thirsty to grow  | thirsty | grow

gift | for
    a wool scarf      | cold
    a warm mitten     | cold
    a spoon of honey  | hungry
    a slice of toast  | hungry
    a cup of tea      | thirsty
    a drop of dew     | thirsty

dish | a
    cake | a plum cake
    pie  | an apple pie
    tart | a lemon tart
    loaf | a walnut loaf
    bun  | an enormous bun

kin | he
    grandmother | she
    aunt        | she
    uncle       | he
"""

RULES = """
story
    <opening> <plot>

opening
    5 One {+weather} {+time}, {+trait.an} {trait} {+hero.noun} named {hero} <start>.
    2 One {+weather} {+time}, {+hero.an} {hero.noun} named {hero} <start>.
    2 {+Hero} was {+trait.an} {trait} {hero.noun} who <start> one {+weather} {+time}.
    2 It was a {+weather} {+time}, and {+hero} <start>.

start
    4 lost {hero.his} {+thing.look} {thing}
    5 wanted to {+wish}
    4 found {+foundling.a}( on the doorstep| behind the shed|)
    4 baked {+dish.a} for {hero.his} {+kin}

plot
    4 [thing] <clue> <recovery> <ending>
    1 [thing] <search> <clue> <recovery> <ending>
    1 [thing !trait] <clue> <discovery>
    [wish] <aid> <attempt> <ending>
    3 [foundling] <gift> <change> <ending>
    1 [foundling] <gift> <thanks>
    [dish] <beggar> <sharing> <ending>

search
    {Hero.he} looked {+spot} and {+corner:spot text!=$spot}, but found only {weather.noun}.
    "Where is my {thing}?" {hero.he} asked the {weather.noun}.

clue
    3 "Look {+nest}," said {+helper.a}.
    2 {+Helper.a} told {hero.him} to look {+nest}.
    1 {+Helper.a} had seen something strange {+nest}.

recovery
    2 <discovery>
    1 {+Later after=$time} {hero.he} found it {nest}, but it was {thing.ruin}.{luck=bad}

discovery
    3 {+Later after=$time} {hero} found the {thing} {nest}.{luck=good}
    2 {+Later after=$time}, there it was, {nest}.{luck=good}

aid
    6 {+Trouble.at}, {+helper.a} lent {hero.him} {+tool.a fits=$trouble}.
    1 Soon {hero.he} came to {+trouble.a}. "Take {+tool.a fits=$trouble}," said {+helper.a}.

attempt
    3 {+Later after=$time dark=$wish.dark} {hero} {trouble.past} and {wish.past}.{luck=good}
    3 But the {tool} {tool.fail}, and {+later after=$time} {hero.he} (turned back|gave up).{luck=bad}
    2 {Hero.he} {trouble.past}, and {+later after=$time dark=$wish.dark} {hero.he} {wish.past}.{luck=good}

gift
    5 It was {foundling.woe}, so {hero.he} gave it {+gift for=$foundling.need}.
    1 "I am {foundling.woe}," it whispered. {Hero} gave it {+gift for=$foundling.need}.
    1 "I am {foundling.woe}," it sighed. "Here is {+gift for=$foundling.need}," said {hero}.

change
    2 {+Later after=$time} the {foundling} began to {foundling.deed}.{luck=good}
    1 {+Later after=$time} it could {foundling.deed} at last.{luck=good}

beggar
    2 On the way, {hero.he} met a hungry {+helper}.
    "I am so hungry," said {+helper.a}.
    {+Helper.a} smelled it and followed {hero.him}.

sharing
    {Hero} gave the {helper} half, and {+later after=$time} {hero.his} {kin} got the rest.{luck=good}
    They shared the {dish}, and {+later after=$time} {hero.his} {kin} got the rest.{luck=good}
    The {helper} ate it all, and {+later after=$time} {hero.his} {kin} got an empty plate.{luck=bad}

ending
    2 [luck=good trait] From that {time.span} on, {hero.he} was never {trait} again.
    1 [luck=good trait] Nobody ever called {hero.him} {trait} again.
    1 [luck=good] "What a {time.span}!" {hero.he} laughed.
    2 [luck=good] {Hero.he} (danced|sang) all the way home.
    1 [luck=good later.dark=no] That night, {hero.he} slept like a stone.
    2 [luck=good helper] "Thank you, {helper}!" said {hero}.
    1 [luck=good helper] {Hero} and the {helper} have been friends ever since.
    2 [luck=good thing] {Hero.he} let the {helper} carry the {thing} home.
    3 [luck=good wish] {Wish.result}.
    1 [luck=good wish] Then {hero.he} took the {tool} back to the {helper}.
    3 [luck=good dish] {Kin.he} set the table for three.
    6 [foundling] <thanks>
    2 [luck=bad trait] {Hero} was as {trait} as ever, but a little wiser.
    1 [luck=bad] "What a {time.span}!" {hero.he} sighed.
    1 [luck=bad] {Hero.he} walked slowly home.
    1 [luck=bad later.dark=yes] {Hero.he} walked home in the dark.
    1 [luck=bad later.dark=no] That night, {hero.he} cried a little.
    2 [luck=bad wish] {Hero.he} did not {wish}, but {hero.he} had made a friend.
    1 [luck=bad wish] "Try again tomorrow," said the {helper}.
    3 [luck=bad thing] "We will make a new {thing}," said the {helper}.
    3 [luck=bad dish] {Kin.he} only laughed and made pancakes.

thanks
    [foundling=star] Now it winks at {hero.him} every night.
    [foundling=egg] A small dragon climbed out and licked {hero.his} nose.
    [foundling=firefly] It became {hero.his} reading lamp.
    [foundling=sparrow] Now it sings {hero.him} awake every morning.
    [foundling=kitten] Now it sleeps on {hero.his} pillow.
    [foundling=ghost] Now it haunts only {hero.his} neighbors.
    [foundling=cloud] All summer, it watered {hero.his} roses.
    [foundling=seed] It became a plum tree as tall as {hero.his} house.
"""
