"""Fields of ``demo_profiles`` with their values, and the sentence to be made of them.

The few-shot examples in ``profiles.yaml`` have values of their own; none of them is here.
"""

SENTENCE = "{name} is a {job} from {town} and has a {pet}."

VALUES: dict[str, str] = {
    "name": """
        Anna; Mary; Julia; Sarah; Emma; Laura; Helen; Alice; Nora; Clara; Tom; Peter; David; Paul; James;
        Robert; Daniel; Oscar; Simon; Henry; Victor; Martin; Frank""",
    "job": """
        baker; dentist; pilot; butcher; tailor; lawyer; painter; carpenter; nurse; farmer; barber;
        teacher; doctor; driver; singer; waiter; plumber; judge""",
    "town": """
        Lisbon; Oslo; Vienna; Cairo; Dublin; Madrid; Prague; Athens; Boston; Chicago; Berlin; Warsaw;
        Naples; Geneva; London; Paris; Tokyo; Moscow""",
    "pet": """
        dog; cat; horse; rabbit; goat; pony; monkey; snake; parrot; turtle; hamster; pig; duck; chicken;
        sheep; lizard; mouse; fox""",
}
