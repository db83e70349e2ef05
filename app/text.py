"""Every string that a person sees on the page, in one place. Records and the schema bring their own words."""

from __future__ import annotations

TITLE = "DSFedMed Studio"
LEAD = "Train a small segmentation model over several hospitals without moving their images, then use it."
RESEARCH_USE = "For research only. Not a medical device: do not use it for diagnosis or treatment."
READ_ONLY_NOTE = (
    "This page is a read-only demonstration: you can look at its runs and segment images, but not start or stop runs."
)
READ_ONLY_WHAT = "Runs cannot be started, stopped or resumed here."
READ_ONLY_FIX = "Install the program on your own machine to run it there."

TAB_TRAIN, TAB_SAMPLES, TAB_SEGMENT = "Train", "Samples", "Segment"

# Run picker
RUN_LABEL = "Run"
RUN_INFO = "Train and Samples show this run. Its address can be shared."
RUN_UNKNOWN_WHAT = "This address names the run {run_id}, which is not in this store."
RUN_UNKNOWN_WHY = "The page can only show runs of the home folder that it was started with."
RUN_UNKNOWN_FIX = "Choose a run from the list, or start the page with that run's home folder (--home)."

# New run
NEW_RUN = "Start a new run"
STEP_PRESET = "1. Choose what to run"
PRESET_LABEL, PRESET_INFO = "Preset", "A complete configuration. You can change any part of it below."
PRESET_LACKS = "It cannot run here as it is. {lacks}"
STEP_DATA = "2. Choose the images"
SOURCE_LABEL = "Images"
SOURCE_CHOICES = {"phantom": "Built-in phantoms", "folder": "A folder on this server"}
STEP_SETTINGS = "3. Change settings (optional)"
STEP_START = "4. Check the plan, then launch"
PLAN_BUTTON, LAUNCH_BUTTON = "Plan", "Launch"
PLAN_EMPTY = "Press Plan to see how long the run takes, how much memory it needs and what leaves each site."
PLAN_BUSY = "Working out the plan …"
LAUNCHED = "Launched. The run is shown below."
FORK_RUN = "Fork a run"
FORK_NAME = "{name} (fork)"
FORK_OF = "Fork of {name} ({run_id}) from {stage}"
FORKED = "fork of {run_id} from {stage}"
FORK_TAKES = (
    "Taken over as they are: {stages}. Their settings are not shown, for they cannot change; nor can seed and method."
)
FORK_TAKES_NOTHING = "Nothing is taken over but the settings: every stage runs again."
FORK_SETTINGS, FORK_START = "1. Change settings", "2. Check the plan, then launch"
NEW_RUN_INSTEAD = "Start a new run instead"
SECTION_LABELS = {
    "run": "Run and device",
    "data": "Data",
    "student": "Student model (learns at the sites)",
    "teacher": "Teacher model (at the server)",
    "federation": "Federated training",
    "privacy": "Differential privacy of the rounds",
    "public": "Training on the public set",
    "samfed": "Training without labels",
    "lora": "Low-rank updates that sites share (LoRA)",
    "experts": "Experts of each site (pFedSAM, our specification)",
    "generator": "Generator at each site",
    "generator_lora": "ControlNet as LoRA",
    "pix2pix": "Pix2Pix",
    "ddpm": "DDPM",
    "release": "Check before a generator leaves",
    "generation": "Synthetic images",
    "foundation": "Foundation fine-tuning",
    "distillation": "Mutual distillation",
    "evaluation": "Evaluation",
    "export": "Export",
}
HELD_OUT_INFO = "Results are measured there; no training sees it. Left empty, it is the last site of the list."
HELD_OUT_LAST = "the last site"
CHOICE_INFO = {"export.opset": "Version of the ONNX operator set.", "device": "auto takes the GPU when there is one."}
SOURCE_OURS = "not from the paper"
SOURCE_PAPER, SOURCE_CODE, SOURCE_DIFFUSERS = "paper", "authors' code", "diffusers"
BOUNDS_BOTH, BOUNDS_LOW, BOUNDS_ABOVE = "{low} to {high}", "At least {low}", "Above {low}"
BOUNDS_ABOVE_BOTH = "Above {low}, at most {high}"
OPTIONAL = "May stay empty"

FIELD_EMPTY_WHAT = "'{label}' under '{section}' is empty."
LIST_MARK = "…"
LIST_CUT = "… and {count:,} more"
LIST_CUT_WHAT = "'{label}' was changed, and shows a part of its list only."
ROUNDS_WHAT = "'Further rounds' is empty or not a whole number."
ROUNDS_WHY = "Sites train and are averaged in whole rounds."
ROUNDS_FIX = "Enter a whole number of at least 1."

# Plan
PLAN_READY = "This run can start."
PLAN_TIME, PLAN_MEMORY, PLAN_DISK, PLAN_DEVICE = "Expected time", "Peak memory", "Disk", "Device"
PLAN_WHERE = "Sites work"
PLAN_IMAGES, PLAN_CLASSES, PLAN_SYNTHETIC = "Images", "Classes", "Synthetic images"
PLAN_OF = "{needed:.1f} of {there:.1f} GiB"
PLAN_WARNINGS, PLAN_LEAVES = "Please note", "What leaves a site"
PLAN_SITES, PLAN_STAGES = "Bytes per site", "Time and memory of each stage"
PLAN_ROLES = {"source": "trains", "test": "test only"}
PLAN_SITE_COLUMNS = ("Site", "Sends", "Receives", "Role", "Training", "Validation", "Test")
PLAN_PRIVACY = "Privacy that is spent"
PLAN_PRIVACY_COLUMNS = ("Site", "Whose", "Noised", "Delta", "Epsilon at most", "Against other images")
PLAN_UNITS = {"site": "the site's", "patient": "a patient's"}
PLAN_STAGE_COLUMNS = ("Stage", "Time", "Memory (GiB)", "Steps", "What it does")

# Live run
NO_RUN_TITLE = "No run yet"
NO_RUN_STEP = "Choose a preset above, press <b>Plan</b> to see what it costs, then <b>Launch</b>."
NO_RUN_READ_ONLY = "This store holds no run. Segment an image with a shipped model on the <b>Segment</b> tab instead."
STATUS = {
    "queued": "Waiting",
    "running": "Running",
    "finished": "Finished",
    "failed": "Stopped by an error",
    "cancelled": "Cancelled",
    "interrupted": "Interrupted",
}
STATUS_NEXT = {
    "queued": "It starts by itself when the run before it ends.",
    "running": "You may close this page: the run goes on. Its address brings you back.",
    "finished": "See the results below, its images on the Samples tab, and its model, if any, on the Segment tab.",
    "failed": "Mend what is named below, then press Resume: it goes on from its last checkpoint.",
    "cancelled": "What it had done is kept. Press Resume to go on from there.",
    "interrupted": "Its worker is gone. Press Resume to go on from its last checkpoint.",
}
CANCELLING = "Stopping at the next step …"
STAGE_STATE = {
    "pending": "to do",
    "running": "running",
    "finished": "done",
    "failed": "stopped by an error",
    "cancelled": "cancelled",
}
STAGES_HEADING = "Stages"
ETA_LEFT, ETA_STAGE = "about {time} left in all", "about {time} left of this stage"
TOOK = "took {time}"
CANCEL_BUTTON, RESUME_BUTTON, DROP_BUTTON = "Cancel", "Resume", "Give the extension up"
GO_ON = "Go on from this run"
EXTEND_HEADING, EXTEND_BUTTON = "Extend: train it longer", "Extend"
EXTEND_NOTE = (
    "Federated training goes on where it ended, and the stages after it run again. The present results stay until the "
    "new ones are there."
)
EXTEND_LABEL, EXTEND_INFO = "Further rounds", "On top of the {rounds} that the run has"
FORK_HEADING, FORK_BUTTON = "Fork: try other settings", "Edit settings"
FORK_NOTE = "A new run takes over what comes before the chosen stage and runs the rest. This run stays as it is."
FORK_LABEL, FORK_INFO = "Fork from", "The first stage that runs again"
CURVES_LABEL, CURVES_INFO = "Curves of", "Loss and validation Dice of one stage"
CURVES_FOLLOW = "the latest stage"
LOSS_PLOT, DICE_PLOT, TRAFFIC_PLOT, RESULTS_PLOT = "Loss", "Dice", "Traffic of each site, MB", "Dice on unseen images"
CURVES_EMPTY = "No curve yet. The first point comes<br>with the first round or epoch."
DICE_EMPTY = "This stage has no Dice curve yet."
TRAFFIC_EMPTY = "Nothing has left or reached a site yet."
RESULTS_HEADING = "Results"
RESULTS_EMPTY = "The results table appears when the evaluation stage has run."
RESULTS_NOTE = (
    "Mean over images; the bootstrap 95 % interval resamples patients (in brackets where they are fewer). The test "
    "site took no part in any training. HD95 is over the n images where both masks have foreground; with misses, each "
    "mask that was missed or found where there is nothing counts the image's diagonal."
)
RESULTS_VALIDATION = "Validation images of the training sites"
LOG_HEADING = "Log"
LOG_EMPTY = "Nothing logged yet."
MEAN_OF_SITES = "mean of the sites"
MOVES = {"up": "sent", "down": "received"}
DIRECTION = {"up": "to the server", "down": "from the server"}
TO_MEASURE = "{size} of it only to measure models"
RESULT_COLUMNS = (
    "Model",
    "Class",
    "Dice (95 % interval)",
    "IoU",
    "HD95 (px, of n)",
    "Missed / false",
    "HD95 with misses",
    "Dice, 5 thresholds",
    "Site",
    "Images",
)
SAID_ONCE = ("Site", "Images")
DIFFERENCE_COLUMNS = ("Model", "Against", "Class", "Dice difference (95 % interval)", "Site", "Images")
DIFFERENCES_HEADING = "Differences between models, on the same test images"
SPREAD_COLUMNS = ("Model", "Worst site", "Its Dice", "Mean of the sites", "Standard deviation", "Images", "Sites")
SPREAD_HEADING = "Between the sites: the worst one, and the spread"
SPREAD_SPLITS = {"test": "unseen", "validation": "validation"}
ONE_PATIENT = "one patient: no interval"
NOT_MEASURED = "–"

# Samples
SAMPLES_LEAD = (
    "The synthetic images of the run, and how much the two models can still learn from each of them. An image's "
    "learnability is λ·(−L<sub>GT</sub>) + (1−λ)·L<sub>KL</sub>: high where the large model is close to the mask (its "
    "error L<sub>GT</sub> is small) and the two models disagree (L<sub>KL</sub> is large)."
)
EPOCH_LABEL, EPOCH_INFO = "Distillation epoch", "Scores change as the models learn"
SITE_LABEL, SITE_ALL = "Site", "All sites"
SHOW_LABEL = "Show"
SHOW_CHOICES = {
    "all": "All",
    "selected": "Selected",
    "rejected": "Not selected",
    "comes_in": "Would come in",
    "goes_out": "Would go out",
}
ORDER_LABEL = "Order by"
ORDER_CHOICES = {
    "score": "Learnability, highest first",
    "l_gt": "L_GT, lowest first",
    "l_kl": "L_KL, highest first",
    "faithfulness": "Faithfulness, lowest first",
    "index": "Number",
}
GALLERY_LABEL = "Synthetic images, masks outlined"
SCATTER_PLOT = "L_GT against L_KL"
SCATTER_EMPTY = "No scores yet. They come with the mutual distillation stage."
L_GT_AXIS, L_KL_AXIS = "L_GT (error of {teacher})", "L_KL (disagreement)"
SELECTED, REJECTED = "selected", "not selected"
PREVIOUS, NEXT = "Previous page", "Next page"
PAGE_OF = "Page {page} of {pages} · {images}"
ONE_IMAGE, IMAGES = "1 image", "{count} images"
SAMPLES_EMPTY_TITLE = "No synthetic images yet"
SAMPLES_EMPTY_STEP = "They appear when the run reaches the <b>{stage}</b> stage. Watch it on the <b>Train</b> tab."
SAMPLES_NO_RUN = "Start a run on the <b>Train</b> tab; its synthetic images appear here."
PICTURE_MISSING = "its file is missing"
SAMPLES_NONE_TITLE = "No image matches"
SAMPLES_NONE_STEP = "Show all sites and all images, or choose another epoch."
SAMPLES_NO_GENERATION = "This method makes no synthetic images. Choose a run of a method that does: {methods}."
DETAIL_EMPTY = "Choose an image above, or a point in the plot, to see it in full with both models' predictions."
DETAIL_IMAGE, DETAIL_MASK, DETAIL_DISPUTE = "Synthetic image", "Its mask", "Where they disagree"
DETAIL_OUTLINED = "Its masks outlined"
DETAIL_TEACHER, DETAIL_STUDENT = "{teacher}'s prediction", "{student}'s prediction"
DETAIL_OF = "Synthetic image {index} of {site}"
DETAIL_FIRST_CLASS = "This run has stored predictions of its first class only."
CLASS_NUMBER = "class {number}"
DETAIL_NOT_YET = "Predictions are stored when mutual distillation ends."
DISPUTE_BOTH, DISPUTE_TEACHER, DISPUTE_STUDENT = "both", "{teacher} only", "{student} only"
DETAIL_FIELDS = {
    "rank": "Rank",
    "score": "Learnability",
    "l_gt": "L_GT",
    "l_kl": "L_KL",
    "faithfulness": "Faithfulness (Dice)",
    "state": "In this epoch",
    "site": "Site",
    "seed": "Seed",
    "source_mask": "Source mask",
    "mask_sharing": "Mask sharing",
    "generator": "Drawn by the generator of",
}
RELEASED_GENERATOR = "nobody: the released one"
CARRIED_OVER = "score from an earlier epoch"

# Segment
SEGMENT_LEAD = "Outline structures in an image with a trained model. The image stays on this server."
STEP_MODEL, STEP_IMAGE, STEP_RESULT = "1. Choose a model", "2. Choose an image", "3. See the result"
MODEL_LABEL, MODEL_INFO = "Model", "From finished runs or shipped with the program; the best on unseen images first"
NO_MODEL_TITLE = "No model yet"
NO_MODEL_STEP = "Launch a run on the <b>Train</b> tab. When it has finished, its model can be chosen here."
UPLOAD_LABEL = "PNG, JPEG, TIFF, DICOM, NIfTI (up to {megabytes} MB)"
SLICE_LABEL, SLICE_INFO, SLICE_OF = (
    "Slice",
    "Which slice to segment. All of them at once: below, under 'Volumes, series and many images'",
    "{name}, slice {number} of {count}",
)
SAMPLE_IMAGES = "Or try an example of what this model was made for"
REAL_SAMPLES = "Or try a real image that this model's training never saw (where it is from: SOURCE.md beside the model)"
SAMPLE_BUTTON = "Example {number}"
SEGMENT_EMPTY_TITLE = "No image yet"
SEGMENT_EMPTY = "Choose an image file, or press an example. The result appears here."
OPACITY_LABEL, OPACITY_INFO = "Opacity", "0 shows outlines only"
INPUT_LABEL = "Image"
DOWNLOAD_LABEL, DOWNLOAD_SEVERAL = "Save the mask (PNG)", "Save the masks (zip, one PNG per class)"
RESULT_TIME = "{wall_ms:.0f} ms on {provider}"
RESULT_NOTHING = (
    "The model found none of its classes in this image. Is it the kind of image that the model was made for?"
)
PROVIDERS = {"CPUExecutionProvider": "CPU", "CUDAExecutionProvider": "GPU (CUDA)"}
TOO_LARGE_FIX = "Cut or shrink the image, or raise DSFEDMED_MAX_UPLOAD_MB or DSFEDMED_MAX_IMAGE_PX."

# Errors
ERROR_WHY, ERROR_FIX = "Why it matters", "What to do"
UNEXPECTED_WHAT = "Something went wrong that the program did not foresee ({kind})."
UNEXPECTED_WHY = "The step was not done; nothing that was stored is lost."
UNEXPECTED_FIX = "Try again. If it happens again, send the lines that the server printed to its maintainers."
PORT_WHAT = "Port {port} on {host} cannot be listened on ({reason})."
PORT_WHY = "Two programs cannot serve a page on one port, and low ports need special rights."
PORT_FIX = "Stop the other program, or choose another port with --port."
NO_FOLDER_RUN = "Enter the dataset's folder first."

# Start
SERVING = "DSFedMed Studio: http://{host}:{port}  (runs in {home})"
DEMO_STARTED = "The demo run {run_id} has been started; the page shows it live."
DEMO_THERE = "The demo run is there already; the page shows it."
SHIPPED_NOT_TAKEN = "The finished run that comes with the program could not be taken in from {folder}."
DEMO_NOT_STARTED = "The demo run could not be started. {error}"
DEMO_NAME = "phantom_cpu_demo"

# Who may do what
OPEN_WHAT = "The page would listen on {host}, where others can reach it, and nothing says what they may do."
OPEN_WHY = "Everybody there could start and stop runs and read the results."
OPEN_FIX = (
    "Add --read-only, --access demo, --users FILE (made by `python -m app.users`), or DSFEDMED_PROXY_USER_HEADER with "
    "DSFEDMED_PROXY_ADDRESSES; or listen on 127.0.0.1."
)
NO_USERS_WHAT = "Sign-in is asked for, and no users file is named."
NO_USERS_WHY = "It says who may sign in."
NO_USERS_FIX = "Write one with `python -m app.users FILE add NAME --role operator` and name it with --users FILE."
NO_PROXY_WHAT = "The name of a trusted proxy's user is asked for, but not its header or not the proxy's addresses."
NO_PROXY_WHY = "Anybody can send a header: only one that comes from the proxy's address tells who is signed in."
NO_PROXY_FIX = "Set both DSFEDMED_PROXY_USER_HEADER and DSFEDMED_PROXY_ADDRESSES."
VIEWER_WHAT = "You may look at runs and segment images here, but not start, stop or change runs."
VIEWER_WHY = "Only operators may."
VIEWER_FIX = "Ask whoever runs this page to make you an operator."
NOT_YOURS_WHAT = "The run {run_id} is not yours."
NOT_YOURS_WHY = "On this demonstration everybody may stop, resume and go on with the runs that they started themselves."
NOT_YOURS_FIX = "Start one of your own above."
COOKIE_WHAT = "Your browser sends no cookie, so the page would not know which run is yours."
COOKIE_WHY = "On this demonstration everybody acts on their own runs only."
COOKIE_FIX = "Allow cookies for this page, or open it in a window of its own, then try again."
ONE_RUN_WHAT = "Your run {run_id} has not ended yet."
ONE_RUN_WHY = "On this demonstration everybody has one run at a time."
ONE_RUN_FIX = "Wait for it, or stop it first."
BUSY_WHAT = "{count} runs wait or run here already."
BUSY_WHY = "This demonstration computes on one small machine."
BUSY_FIX = "Watch one of them, or try again in some minutes."
DEMO_NOTE = (
    "This page is a demonstration: you can start one of the two demo presets, watch it, and segment images. Runs of "
    "visitors are deleted after {hours} hours."
)
DEMO_PRESET_INFO = "A complete configuration. You may change some of it below."
DEMO_SETTINGS = "On this demonstration you may lower the counts of the preset, and choose what costs nothing."
DEMO_LOWERED = "1 to what the preset says."
DEMO_WHAT = "This demonstration does not start a run with these settings: {keys}."
DEMO_WHY = "It runs on a small machine for everybody."
DEMO_FIX = "Choose {presets} again; you may lower {keys}."
PATH_WHAT = "'{key}' names neither weights of the registry nor a file or folder that this page may use."
PATH_WHY = "Others can reach this page, so it opens only what its operator has allowed."
PATH_FIX = "Name something below the folders that the operator has allowed, or a name of the registry."
PATH_FIX_NONE = "Use the built-in phantoms and a name of the registry; no folder has been allowed (--allow-root)."
HOME_FOLDER, MODELS_FOLDER, PROGRAM_FOLDER = "the home folder", "the folder of models", "the program's folder"
QUEUE_EACH = "You have {most} requests that wait for their answer. Wait a moment, then try again."
QUEUE_ALL = "The page is busy: {waiting} requests wait for their answer. Try again in a minute."
NOT_OFFERED = "The page does not offer that value, or no longer. Load the page again and choose from what it shows."
TABS_OPEN = "You have as many tabs of this page open as it can keep. Close some, wait a minute, then load it again."
SIGNED_IN = "Signed in as {name} ({role})"
SIGN_OUT, SIGN_IN = "Sign out", "Sign in"
SIGN_IN_NAME, SIGN_IN_PASSWORD = "Name", "Password"
SIGN_IN_LEAD = "Only people with an account can see this page."
SIGN_IN_WRONG = "That name and password do not belong together."
SIGN_IN_SLOW = "Too many wrong passwords. Try again in {minutes} minutes."

# Uploads
UPLOAD_LARGE_WHAT = "The file is larger than {megabytes} MB."
UPLOAD_LARGE_WHY = "This page keeps what visitors upload within bounds."
QUOTA_EACH = "You are sending more files at a time than one visitor may."
QUOTA_ALL = "The page holds as many uploaded files as it may."
QUOTA_WHY = "Uploads of all visitors share one disk."
QUOTA_FIX = "Try again later: files are deleted after {minutes} minutes at most."
FORM_WHAT = "The upload is not a form with one file."
FORM_WHY = "The page takes one image at a time."
FORM_FIX = "Choose one file and try again."
LARGE_TO_ANSWER = "Reading and segmenting an image of {width} x {height} pixels would take {needed} MB of memory."
LARGE_TO_ANSWER_WHY = "This page gives {megabytes} MB to one image."

# Asked before
ASK_CANCEL = (
    "Stop this run? It ends at its next step. What it has done so far is kept, and it can be resumed from there. Where "
    "it is being extended, its results of before stay as they are."
)
ASK_CANCEL_YES, ASK_CANCEL_NO = "Yes, stop the run", "No, let it run"
ASK_EXTEND = (
    "Add these rounds? The run goes on training, and everything after federated training is done again. Its present "
    "models, samples and results stay, and are shown, until all new ones are there, which then take their place."
)
ASK_DROP = (
    "Give the extension up? The rounds that were added, as far as they were trained, are deleted and cannot be brought "
    "back. The results of before the extension stay, and the run is again what it was."
)
ASK_DROP_YES, ASK_DROP_NO = "Yes, give it up", "No, keep it"
ASK_EXTEND_YES, ASK_EXTEND_NO = "Yes, add the rounds", "No, leave it as it is"

ACCESS_HELP = (
    "On this machine's own address everybody may do everything. On any other address one of these rules is needed, or "
    "the page does not start: --read-only; --access demo (visitors start the two demo presets and act on their own "
    "runs: what containers and Spaces do); --users FILE (people sign in, as viewers or operators); or "
    "DSFEDMED_PROXY_USER_HEADER with DSFEDMED_PROXY_ADDRESSES and DSFEDMED_PROXY_OPERATORS (a proxy says who they "
    "are). Runs then name only weights of the registry, and folders below --allow-root."
)
SEGMENT_EXPIRED = "This result is not kept any more. Choose the image again."
