# LAVIS, whose BLIP-2 the paper used: it needs libraries too old to share an environment with ours.
#   docker build -f docker/lavis.Dockerfile -t tgmae-lavis .
#   docker run --rm --shm-size 2g -v "$PWD/work:/work" -v /data:/data:ro tgmae-lavis caption /work/ssv2 --source lavis
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# Three of LAVIS' dependencies come as sources and are built by what is installed, not by the newest setuptools.
WORKDIR /src
COPY pipeline/captioners/lavis-requirements.txt ./
RUN pip install -c lavis-requirements.txt setuptools wheel \
    && pip install --no-build-isolation -r lavis-requirements.txt \
    && python -c 'from lavis.models import load_model_and_preprocess'
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY schemas schemas
COPY pipeline pipeline
COPY train train
COPY tgmae tgmae
RUN pip install --no-deps .

RUN useradd --create-home --uid 1000 tgmae && install -d -o tgmae -g tgmae /work
USER tgmae
WORKDIR /work
ENTRYPOINT ["tgmae"]
CMD ["caption", "--help"]
