# GPU image for production: training, evaluation and serving in the base image's Python, TensorRT-LLM in an environment of its own.
#
#   docker build -t nemo_desta .
#   docker run --gpus all --ipc=host -v "$HOME/.cache/nemo_desta:/cache" -v "$PWD/runs:/workspace/runs" nemo_desta \
#       python examples/train_desta.py --config-name=desta25 trainer.devices=8 trainer.strategy=ddp
#
# The base brings PyTorch 2.12 for CUDA 13, Python 3.12, NCCL, Transformer Engine and, in most releases, Apex.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.05-py3
FROM ${BASE_IMAGE}

# Build Apex and Transformer Engine only where the base lacks them; name a revision or a tag that fits the base's CUDA.
ARG APEX_REVISION=master
ARG MAX_JOBS=8
# The last release with the engine flow (trtllm-build). It pins torch 2.9 and transformers 4.57, so it shares no environment with training.
ARG TENSORRT_LLM_VERSION=1.2.1

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NEMO_DESTA_CACHE=/cache

RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-venv libopenmpi-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /workspace

# What the base was built with stays as it is: these lines become constraints for everything that follows.
RUN python -m pip list --format=freeze \
    | grep -iE '^(torch|torchvision|torchaudio|triton|pytorch-triton|apex|flash[-_]attn|transformer[-_]engine.*)==' > /etc/pip-keep.txt \
    && test -s /etc/pip-keep.txt
ENV PIP_CONSTRAINT=/etc/pip-keep.txt

# The dependencies first: they change less often than the code.
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN grep -v '^torch==' requirements.lock > /tmp/requirements.txt \
    && python -m pip install -r /tmp/requirements.txt \
    && python -m pip install --no-deps tinysoundfont==0.3.7 \
    && rm /tmp/requirements.txt

RUN python -c "import apex" 2>/dev/null \
    || python -m pip install --no-build-isolation --config-settings "--build-option=--cpp_ext --cuda_ext" \
       "apex @ git+https://github.com/NVIDIA/apex.git@${APEX_REVISION}"

COPY nemo_desta ./nemo_desta
COPY conf ./conf
COPY examples ./examples
COPY tools ./tools
RUN python -m pip install --no-build-isolation -e ".[serve,export,lora]" \
    && { python -c "import transformer_engine.pytorch" 2>/dev/null || python -m pip install --no-build-isolation -e ".[gpu]"; }

RUN python -m venv /opt/tensorrt_llm \
    && PIP_CONSTRAINT= /opt/tensorrt_llm/bin/pip install "tensorrt_llm==${TENSORRT_LLM_VERSION}" \
    && PIP_CONSTRAINT= /opt/tensorrt_llm/bin/pip install --no-deps -e .

RUN useradd --create-home --shell /bin/bash desta \
    && mkdir -p /cache /workspace/runs \
    && chown -R desta:desta /cache /workspace
USER desta
VOLUME ["/cache", "/workspace/runs"]

CMD ["python", "examples/train_desta.py", "--help"]
