# DSFedMed Studio as a container: the page, its worker processes and the command line.
#
#   docker build -t dsfedmed .                                   for CPUs (no CUDA libraries, about 5 GB smaller)
#   docker build -t dsfedmed --build-arg VARIANT=cuda .          for NVIDIA GPUs (run with --gpus all)
#   docker run -p 7860:7860 -v dsfedmed:/data dsfedmed           a demonstration on http://localhost:7860: visitors start
#                                                                the two demo presets and act on their own runs
#   docker run -p 127.0.0.1:7860:7860 -v dsfedmed:/data -e DSFEDMED_ACCESS=sign-in -e DSFEDMED_USERS_FILE=/data/users.json \
#     dsfedmed                                                   people sign in; first write the users file:
#   docker run -it -v dsfedmed:/data dsfedmed python -m app.users /data/users.json add NAME --role operator
#   docker run dsfedmed python -m engine plan --preset phantom_cpu_demo
#
# Runs, checkpoints and models are kept in the volume /data.

FROM python:3.11-slim

ARG VARIANT=cpu
# Where VARIANT=cpu takes torch and torchvision from; any index with CPU builds of the pinned versions will do.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 UV_NO_CACHE=1 UV_SYSTEM_PYTHON=1

WORKDIR /srv/dsfedmed
COPY requirements.txt .
# The last section of requirements.txt is for development only. One layer, so that nothing is stored twice.
RUN set -eu; \
    sed '/^# Checks$/,$d' requirements.txt > /tmp/requirements.txt; \
    pip install --no-cache-dir "$(grep '^uv==' requirements.txt)"; \
    case "$VARIANT" in \
      cpu) uv pip install --no-deps --index-url "$TORCH_CPU_INDEX" $(grep -E '^(torch|torchvision)==' requirements.txt) ;; \
      cuda) ;; \
      *) echo "VARIANT is cpu or cuda, not '$VARIANT'" >&2; exit 1 ;; \
    esac; \
    uv pip install --compile-bytecode -r /tmp/requirements.txt; \
    rm /tmp/requirements.txt

# User 1000, as Hugging Face Spaces expects; the program's own files stay root's and unwritable.
RUN useradd --create-home --uid 1000 studio && install -d -o studio -g studio /data
COPY . .
# Nothing is compiled at run time: a worker starts in 3 s instead of 11.
RUN python -m compileall -q app engine export
USER studio

ENV DSFEDMED_HOME=/data/studio_home DSFEDMED_HOST=0.0.0.0 DSFEDMED_PORT=7860 GRADIO_ANALYTICS_ENABLED=False
# Who may do what; the others are read-only, sign-in and proxy. Names of the server: DSFEDMED_ALLOWED_HOSTS=a.example
ENV DSFEDMED_ACCESS=demo
VOLUME /data
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['DSFEDMED_PORT'] + '/health', timeout=4)"]

CMD ["python", "-m", "app.main"]
