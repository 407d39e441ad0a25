# One image for the aggregator, the workers and fl-simulate; the command says which.
FROM python:3.11-slim

# On Linux, pip's usual index has PyTorch with CUDA, several gigabytes of it. For the CPU build, name PyTorch's
# CPU index here (in .env or with --build-arg): 2.13.0+cpu then counts as newer than 2.13.0 and is taken.
ARG TORCH_INDEX_URL=""

RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin fedmq \
 && install -d -m 700 -o fedmq -g fedmq /state /members /aggregator /keeper

# PyTorch is most of the image, so it is a layer of its own that a change of the code leaves alone.
WORKDIR /src
COPY constraints.txt .
RUN pip install --no-cache-dir --root-user-action ignore \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -c constraints.txt torch
COPY . .
RUN pip install --no-cache-dir --root-user-action ignore -c constraints.txt '.[demo]'

ENV PYTHONUNBUFFERED=1
USER fedmq
WORKDIR /state
VOLUME /state

# In exec form, as every command in docker-compose.yml: the process is Python itself and gets `docker stop`.
CMD ["fl-worker", "--help"]
