"""What the endpoints for programs say of themselves, and of requests that they refuse."""

from __future__ import annotations

MODELS = "List the models that this page offers, best first: key, images, classes and Dice with its 95 % interval."
SEGMENT = (
    "Segment one image, or one slice (from 1) of a volume, by the model with this key. Gives the mask (a PNG, 0 and "
    "255; of several classes a zip of them) and figures. An image that is unlike those of the model's training is "
    "refused in words unless 'anyway' is true. 'looks' is 'whole' (reduced to the model's side), 'parts' (part by part "
    "at full resolution: small things in a large image stay apart), 'fine' (smaller parts, enlarged), or empty for "
    "what the model is best at; an image of very many parts is looked at as a whole ('num_parts' is 1). "
    "'variant' names a faster variant of the model or 'full'; empty takes the fastest that costs half a point at most."
)
PLAN = (
    "Say what a run takes, sends and leaves out; nothing is started. 'configuration' is TOML or JSON; with 'preset' "
    "(a shipped one's name) it only has what differs."
)
SUBMIT = "Plan and queue a run; 'configuration' and 'preset' as for plan. Gives the run's id."
STATUS = "Say how far a run is: its stages, expected seconds left, sites, and what stopped it."
LIST = "List the newest runs, newest first, 'limit' of them (1 to 200)."
REPORT = "Give a run's results: figures by model and site, differences with intervals, bytes by site, files."

TEXT = "'{label}' takes text of up to {most} letters."
INTEGER = "'{label}' takes a whole number."
SWITCH = "'{label}' is either true or false."

FOREIGN_FIX = (
    "Choose another model or image. Where you know better, ask again with anyway = true: the file's name tells it."
)
NO_CONFIGURATION_WHAT = "There is neither a configuration nor the name of a preset."
NO_CONFIGURATION_WHY = "A run is planned from one of them, or from both."
NO_CONFIGURATION_FIX = "Give a configuration as TOML or JSON, or one of the presets {presets}."
PRESET_WHAT = "There is no preset called '{name}'."
PRESET_WHY = "A preset is named; files of the server are not read."
PRESET_FIX = "Use one of {presets}."
SYNTAX_WHAT = "The configuration is neither valid TOML nor a JSON object: {said}."
SYNTAX_WHY = "Text that begins with a brace is read as JSON, all other as TOML."
SYNTAX_FIX = "Correct it; `python -m engine plan --preset NAME --json` prints a complete valid example."
LIMIT_WHAT = "The list has 1 to {most} runs, not {limit}."
LIMIT_WHY = "A list of all runs ever made would keep the page busy."
LIMIT_FIX = "Give a limit in these bounds."
SLICE_WHAT = "The image has {count} slice(s); there is no slice {number}."
SLICE_WHY = "Slices are counted from 1; a picture has one."
SLICE_FIX = "Name a slice that there is."
