# LAVIS, whose BLIP-2 the paper used: it needs libraries too old to share an environment with ours.
#   docker build -f docker/lavis.Dockerfile -t tgmae-lavis .
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# Three of its dependencies come as sources and are built by what is installed, not by the newest setuptools.
WORKDIR /src
COPY docker/lavis-constraints.txt ./
RUN pip install -c lavis-constraints.txt setuptools wheel \
    && pip install -c lavis-constraints.txt --no-build-isolation salesforce-lavis==1.0.2 \
    && python -c 'from lavis.models import load_model_and_preprocess'

RUN useradd --create-home --uid 1000 tgmae && install -d -o tgmae -g tgmae /work
USER tgmae
WORKDIR /work
CMD ["python", "-c", "from lavis.models import model_zoo; print(model_zoo)"]
