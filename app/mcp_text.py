"""What the tools for assistants say, beside what the page's endpoints say of themselves."""

from __future__ import annotations

ABOUT = (
    "Tools of the Model Context Protocol over standard input and output, for an assistant's program: segment, models, "
    "plan, submit, status, list and report, answered by a running page."
)
INSTRUCTIONS = (
    "Tools of a DSFedMed Studio page: models that segment medical images, and runs of federated learning. Figures come "
    "from runs; an answer marked 'unlike_training' is not to be relied on. Nothing here is a medical device."
)
SEGMENT = (
    "'image' is the path of a file on this machine, below a folder that a person has allowed; it is sent to the page. "
    "Without 'model' the best one answers. 'mask' is the path of what was written."
)
PAGE_HELP = "address of the running page"
IMAGES_HELP = "folder whose images may be sent to the page; may be given again; the current folder unless given"
SAVE_HELP = "where masks are written; ./segmented unless given"
USER_HELP = "who signs in, where people sign in; the password is the environment's {variable}"
NO_FOLDER = "Not a folder: {folders}. Name the folders of your images with --images."
NO_PAGE = (
    "No page answers at {address} ({reason}). Start it with `python -m app.main`, or give its address with --page."
)
NOT_SIGNED_IN = (
    "The page did not take the sign-in of {user} ({status}). Give the name with --user and the password in {variable}."
)
OUTSIDE = "{image} is not below a folder whose images may be sent: {folders}. A person allows another with --images."
NO_FILE = "There is no file {image}."
NO_MODEL = "The page offers no model yet. Export one of a run that has finished."
