"""What the Samples tab says of other values of lambda and of the selection rate, of epochs, and of its list."""

from __future__ import annotations

SEARCH_LABEL, SEARCH_INFO = "Search", "Part of a sample's id, such as a site's name or 00042"
PAGE_LABEL = "Go to page"
PAGE_INFO = "A number, then Enter"
COMES_IN, GOES_OUT = "+ would come in", "− would go out"
RANKED = "rank {rank}, {state}"
RANKED_ANEW = "rank {rank} (was {before}), {state}"

WHAT_IF = "What other values would choose"
WHAT_IF_NOTE = (
    "Nothing of the run changes. The scores of this epoch are worked out again from the terms that the run has stored. "
    "Trained with other values, the models of later epochs would have scored these images otherwise."
)
WEIGHT_LABEL, WEIGHT_INFO = "λ", "Weight of L_GT against L_KL; the run's own is {own:g}"
RATE_LABEL, RATE_INFO = "Selection rate", "Share of the images that is trained on; the run's own is {own:g}"
RESET = "Back to the run's values"
OWN = "These are the run's own values: {after:,} of {total:,} samples are selected."
CHANGED = "{changed:,} of {total:,} samples would change"
CHANGED_HOW = "{num_in:,} in, {num_out:,} out; {after:,} selected in place of {before:,}."
DIFFERS = (
    "With the run's own values, {count:,} samples come out otherwise than the run has chosen. Changes are counted "
    "against what the run chose."
)
BY_CHANCE = "This run draws its samples by chance, the likelier the higher they score; its own draws are used here."
IN_BATCH = (
    "This run chose inside each batch while it trained. Which images shared a batch is not stored, so other values of "
    "λ and of the selection rate cannot be tried here."
)
BY_SITE = "By site"
SITE_COLUMNS = ("Site", "Scores", "Samples", "Selected by the run", "With these values", "In", "Out")
SITES_CUT = "The {shown} sites with most changes, of {total}."
HISTOGRAM = "Scores of {site} from {low:.3f} to {high:.3f}: {selected:,} selected, {rejected:,} not selected"
HISTOGRAM_KEY = "Scores from {low:.3f} to {high:.3f}, each bar a share of its site's samples:"
HISTOGRAM_SELECTED, HISTOGRAM_REJECTED = "selected with these values", "not selected"

OWN_LINE, LINE = "the run's boundary", "with these values"
POINTS_CUT = "{shown:,} of {total:,}, evenly over the ranks"

HISTORY = "Over the epochs"
HISTORY_SAID = "Selected in {selected} of {epochs} epochs; rank {best:,} to {worst:,} of {total:,}."
HISTORY_SCORE, HISTORY_RANK = "Learnability", "Rank"
HISTORY_AXIS = "{title}, epoch {first} to {last}; from {low} (bottom) to {high} (top)"
HISTORY_VALUES = "The values"
HISTORY_COLUMNS = ("Epoch", "Learnability", "Rank", "In this epoch", "L_GT", "L_KL")

LIST_BUTTON, LIST_DOWNLOAD = "Make the list (CSV)", "Download the list"
LIST_NOTE = (
    "All samples of this epoch with their terms, scores and ranks: the run's, and those with the sliders' values."
)
LIST_READY = "{name}, {rows:,} samples."

LEAVE_OUT, TAKE_BACK = "Leave this image out of a fork", "Take this image back in"
LEFT_OUT = "{count:,} of {total:,} images are left out of the fork: {names}."
LEFT_OUT_MORE = "{names} and {count:,} more"
LEFT_OUT_NOTE = "No epoch of the fork scores them or trains on them. The run itself keeps them."
LEFT_OUT_CLEAR = "Take all back in"
LEFT_OUT_ALL = "All images of the run would be left out: the fork needs some to learn from."

FORK_BUTTON = "Fork with these values"
FORK_ASK = (
    "Fill the form on the Train tab with a fork of this run that has these values? What the form holds now is "
    "replaced. Nothing starts before you press Launch there."
)
FORK_YES, FORK_NO = "Fill the form", "Leave it"

EPOCHS_HEADING = "Two epochs side by side"
EPOCHS_LABEL, EPOCHS_INFO = "Compare with epoch", "Beside the epoch that is chosen at the top"
EPOCHS_BUTTON = "Compare"
EPOCHS_NONE = "No sample has a score in both epochs."
EPOCHS_SAID = "From epoch {first} to epoch {second}: {came:,} came in, {went:,} went out, {stayed:,} stayed selected."
EPOCHS_ALIKE = "The ranks agree by {value:.2f} (Spearman; 1 is the same order, 0 is none)."
EPOCHS_COLUMNS = ("Site", "Samples", "Came in", "Went out", "Stayed selected")
EPOCHS_PLOT = "Rank against rank (1 is the most learnable)"
EPOCHS_AXIS = "Rank in epoch {epoch}"
EPOCHS_NEITHER, EPOCHS_STAYED, EPOCHS_CAME, EPOCHS_WENT = "not selected in either", "stayed", "came in", "went out"
EPOCHS_RANKS = "rank {before:,} → {after:,}"
EPOCHS_PICTURES_CAME, EPOCHS_PICTURES_WENT = "Came in, those that moved furthest", "Went out, those that moved furthest"
DETAIL_KL = "KL of both at each pixel (white: {full:g} and more)"
