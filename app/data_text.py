"""What the form of a new run says of the images that are chosen there."""

from __future__ import annotations

LOOK, AGAIN, STOP = "Look at the data", "Look again", "Stop looking"
NOTE = (
    "Before a run: every fault, what each site has, how a run would cut it, and how alike the sites look. Nothing of "
    "it is kept."
)
WAITING = "Looking at the data …"
HEADERS = "{done} files found so far …"
IMAGES = "Image {done} of {total} …"
ASKING = "Asking the sites what they have; those that are not connected are waited for, a minute at most …"
STOPPED = "Stopped: nothing of it is kept. A dataset that was being made goes on where it was when asked for again."
CHANGED = "The choice has changed: look again."
HEADING = {
    True: "{name}: a run can begin with these images",
    False: "{name}: a run cannot begin with these images yet",
}
NAMELESS = "This folder"
KNOWN = "{images} images of {sites} · {classes}"
SITES = ("1 site", "{count} sites")
CLASSES = ("class: {names}", "classes: {names}")
CHECKED = "Every file was read to its last pixel."
CUT_SHORT = (
    "{decoded} of {images} images were read to their last pixel in the time that a page gives; names, sizes and "
    "patients are checked of all. A run reads the rest before it trains; so does `engine data check`."
)
PHANTOM = (
    "Phantoms are drawn when a run asks for them, so there is nothing to check: the pictures below are some of them."
)
DESCRIBED = (
    "These images lie at the sites and are not shown here: each site has told names and numbers. Its own people check "
    "them there with `engine data check FOLDER --site NAME`."
)
FAULTS = ("1 fault keeps a run from starting", "{count} faults keep a run from starting")
WARNINGS = ("1 thing to know before its figures are trusted", "{count} things to know before its figures are trusted")
MEND = "Mend it: {fix}"
MORE = "And {count} more: mend these first, or run `engine data check` on the folder for all of them."
APART = "How far apart the sites look: {value:.1f}"
APART_MEANS = (
    "An image of one site is {value:.1f} times as far from those of another site as from further ones of its own, by "
    "brightness, colour and texture; 1 means that the sites look like one."
)
APART_TEST = "{site}, which no training sees, is {value:.1f} times as far from {nearest}, the nearest site that trains."
APART_ROUGH = "It is a rough figure where a site has fewer than {fewest} images."
APART_NONE = "How far apart the sites look is said of two sites or more with {fewest} images each."
COLUMNS = (
    "Site",
    "Images",
    "Training",
    "Validation",
    "Test",
    "Patients",
    "Size (pixels)",
    "Pixel (mm)",
    "Nearest site",
)
TABLE = "Sites and how a run would cut them"
ROLE_TEST = "held out"
UNCUT = "–"
NEAREST = "{site} ({value:.1f})"
LEGEND = (("train", "training"), ("validation", "validation"), ("test", "test"), ("uncut", "not cut yet"))
UNCUT_NOTE = "How a run would cut them is known once nothing keeps it from starting."
PICTURES = "A few images of each site, masks outlined"
PICTURES_FIRST = "A few images of the first {count} sites, masks outlined"
PICTURE_ALT = "An image of {site}, its mask outlined"
SITES_SHOWN = "The first {shown} of {total} sites."
WHERE = "{file}: "
ROOT_WHAT = "No folder is named."
ROOT_WHY = "The images of the sites are looked for there."
ROOT_FIX = "Choose a folder from the list, or write its path on this server."
PHANTOMS_ONLY_WHAT = "Only the built-in phantoms can be looked at in this demonstration."
PHANTOMS_ONLY_WHY = "Nobody knows who its visitors are, and a folder shows patients."
PHANTOMS_ONLY_FIX = "Choose the built-in phantoms, or serve the page yourself."
FOLDERS_LABEL = "Datasets found on this server"
FOLDERS_INFO = "Choose one, and its path stands below. They are told by the names of their folders alone."
FOLDERS_CUT = "The first {count} that were found; write the path of another below."
FOLDERS_NONE = "No folder below {roots} looks like a dataset; README says how one is laid out. Or write a path below."
FOLDERS_NO_ROOT = "No folder has been named to look in (--allow-root)."
FOLDER = "{name} ({images} images, {sites} sites)"
FOLDER_FOREIGN = "{name} ({images} images, nnU-Net or Decathlon: to be made a dataset first)"
UPLOAD_LABEL = "Or upload one as a zip (up to {megabytes} MB)"
UPLOAD_NOTE = (
    "It is unpacked on this server, readable by the page alone, and deleted after {days} days unless a run names it. "
    "Everybody who may start runs here can use it: names of files must not say whose images they are."
)
CONVERT = "Make a dataset of it"
CONVERT_FIX = (
    "“Make a dataset of it” copies it on this server into a folder with a site for each dataset.json, and puts that "
    "folder into the form. To train across sites, choose a folder that holds one such dataset for each site."
)
CONVERTING = "Making a dataset of it …"
CONVERTED_SO_FAR = "Making a dataset of it: image {done} of {total} …"
CONVERTED = "{images} of {sites} are in the new dataset; its folder stands in the form."
CONVERTED_IMAGES = ("1 image", "{count} images")
CONVERTED_LEFT_OUT = "Left out: {name}: {why}."
CONVERTED_MORE = "And {count} more left out; prepared.json in the new folder names all."
UNPACKING = "Unpacking …"
UNPACKED = "Unpacked; its folder stands in the form."
UPLOAD_WHO_WHAT = "Only operators of this page can upload a dataset."
UPLOAD_WHO_WHY = "It stays on the server for days, and runs may be started on it."
UPLOAD_WHO_FIX = "Ask an operator."
FULL_WHAT = "Uploaded datasets take the {megabytes:,} MB that they may take together."
FULL_WHY = (
    "Each is kept for {days} days, and as long as a run names it; those made of corrected masks until somebody takes "
    "them away."
)
FULL_FIX = "Delete runs whose datasets nobody needs any more, or have the folder copied to the server."
