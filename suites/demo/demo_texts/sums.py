"""Word problems of ``demo_sums``: what happens, and the question. All of them ask for a sum.

``{a}`` and ``{b}`` are written as words. The few-shot examples in ``sums.yaml`` have sentences, names,
things and pairs of numbers of their own; none of them is in an item.
"""

PROBLEMS = """
    {name} has {a} {things} and buys {b} more. How many {things} does {name} have now?
    There are {a} {things} in the box. {name} puts in {b} more. How many {things} are in the box now?
    {name} finds {a} {things} in the morning and {b} in the evening. How many {things} is that?
    {name} had {a} {things} and got {b} more from a friend. How many {things} does {name} have now?
    On the table are {a} {things}, and in the bag are {b}. How many {things} are there together?
    {name} keeps {a} {things} at home and {b} at school. How many {things} does {name} have?
    Last week {name} sold {a} {things}, and this week {b}. How many {things} did {name} sell?
    {name} brings {a} {things} and {other} brings {b}. How many {things} do they bring together?
"""

NAMES = """
    Anna; Mary; Julia; Sarah; Emma; Laura; Helen; Alice; Nora; Clara; Tom; Peter; David; Paul; James;
    Robert; Daniel; Oscar; Simon; Henry; Victor; Martin; Frank
"""

THINGS = "books; coins; stamps; pencils; balls; cups; cards; eggs; flowers; keys; plates; candles"

NUMBERS = "one; two; three; four; five; six; seven; eight; nine"

SHOWN = ((4, 2), (3, 8), (5, 7), (9, 6))  # of the examples, so of no item
