# pretrain and probe: torch, timm, PyAV, decord; no Ray, no captioner, no CLIP.
#   docker build -f docker/train.Dockerfile -t tgmae-train .
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# First what tgmae needs, as long as the pins are the same; no sources are there yet.
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs configs
RUN mkdir schemas pipeline train tgmae && pip install -c constraints.txt '.[train]'

COPY schemas schemas
COPY pipeline pipeline
COPY train train
COPY tgmae tgmae
RUN pip install --no-deps --force-reinstall .

RUN useradd --create-home --uid 1000 tgmae && install -d -o tgmae -g tgmae /work
USER tgmae
WORKDIR /work
ENTRYPOINT ["tgmae"]
CMD ["--help"]
