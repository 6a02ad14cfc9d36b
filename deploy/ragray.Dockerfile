# The image of Ray's nodes on Kubernetes (deploy/kuberay), for CPUs and for GPUs:
#
#   docker build -f deploy/ragray.Dockerfile -t REGISTRY/ragray-cpu:0.1.0 .
#   docker build -f deploy/ragray.Dockerfile -t REGISTRY/ragray-gpu:0.1.0 . \
#     --build-arg BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04 --build-arg TORCH_INDEX=https://pypi.org/simple
#
# Both have Ubuntu 24.04's Python 3.12 and constraints.txt, so that Ray's nodes agree. torch 2.13.0 of PyPI is built for
# CUDA 13.0; the -devel base has the CUDA compiler that DeepSpeed's operators need. With TensorRT-LLM instead, as image
# of the GPU workers: deploy/tensorrt-llm.Dockerfile.
# NOT BUILT in this project's tests: they have no container engine. constraints.txt was verified with 3.11.
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update -q \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        ca-certificates g++ libgomp1 python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

# User 1000 of Ubuntu's image is "ubuntu"; the pods run as 1000, too, with a writable /home/ragray and /tmp alone.
RUN mkdir -p /home/ragray /mnt/ragray && chown 1000:1000 /home/ragray /mnt/ragray

RUN python3.12 -m venv /opt/ragray \
    && /opt/ragray/bin/pip install --no-cache-dir --index-url ${TORCH_INDEX} "torch==${TORCH}"

COPY pyproject.toml constraints.txt README.md LICENSE /opt/source/
COPY ragray /opt/source/ragray
COPY jobs /opt/source/jobs
RUN /opt/ragray/bin/pip install --no-cache-dir -c /opt/source/constraints.txt "/opt/source[all]"

# KubeRay starts Ray in a login shell, which may set PATH anew.
RUN echo 'export PATH=/opt/ragray/bin:$PATH' > /etc/profile.d/ragray.sh
ENV PATH=/opt/ragray/bin:${PATH} HOME=/home/ragray PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /mnt/ragray
