# Image of vitas_ds with DALI and DeepSpeed, with a precompiled FusedAdam.
#
#   docker build --tag vitas_ds [--build-arg CUDA_ARCHS="8.0 9.0"] .
#   launch/docker.sh RECIPE [section.key=value ...]

ARG CUDA=13.0.1
ARG UBUNTU=24.04

FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends build-essential python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/vitas_ds
ENV PATH=/opt/vitas_ds/.venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt constraints.txt ./
# The versions of constraints.txt. The second line holds the extras quickstart and export.
RUN python3 -m venv .venv && pip install --constraint constraints.txt --requirement requirements.txt \
    mlxtend pillow onnx onnxruntime onnxscript timm setuptools wheel
# A100, A40 / RTX 30, L40 / RTX 40, H100 / H200, B200
ARG CUDA_ARCHS="8.0 8.6 8.9 9.0 10.0"
ARG MAX_JOBS=4
# There is no GPU during the build, so DeepSpeed must be told to build its CUDA ops
RUN DS_ACCELERATOR=cuda DS_BUILD_FUSED_ADAM=1 TORCH_CUDA_ARCH_LIST="${CUDA_ARCHS}" MAX_JOBS="${MAX_JOBS}" \
    pip install --force-reinstall --no-deps --no-build-isolation --no-binary deepspeed \
    "$(grep ^deepspeed== constraints.txt)" \
 && python -c 'from deepspeed.git_version_info import installed_ops; assert installed_ops["fused_adam"], installed_ops'

FROM nvidia/cuda:${CUDA}-base-ubuntu${UBUNTU}
# compiler and Python headers for torch.compile; pdsh and ssh for several nodes
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev libpython3-dev openssh-client pdsh python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 vitas
WORKDIR /opt/vitas_ds
ENV PATH=/opt/vitas_ds/.venv/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
# The large layer first: after a change of our code only the small layers behind it are rebuilt.
COPY --from=build /opt/vitas_ds/.venv .venv
COPY . .
# installed.quickstart: launch/quickstart.sh skips the installation if it finds this file
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable . \
 && python -m compileall -q vitas_ds \
 && cat requirements.txt pyproject.toml >.venv/installed.quickstart \
 && mkdir -p data runs && chown 10001 data runs
USER 10001
HEALTHCHECK --interval=30m --timeout=10m --start-period=1m CMD ["python", "-m", "vitas_ds", "doctor"]
CMD ["python", "-m", "vitas_ds", "--help"]
